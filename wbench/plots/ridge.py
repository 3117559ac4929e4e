"""Densities of one layer's weights over training, one above the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wbench.plots._grid import Grid
from wbench.plots._steps import steps_of
from wbench.plots._style import TITLE, axes_of, colour_of, empty, layers_of, of_run, require, runs_of, text
from wbench.plots.histogram import common_edges, density_on

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

RIDGES = 12
OVERLAP = 2.2  # height of the highest ridge, in distances between two


def ridge(
    frame: pd.DataFrame, *, layer: str | None = None, cursor: int | None = None, bins: int = 80, columns: int = 3
) -> go.Figure:
    """Draw how the density of a layer's weights changes over the steps; a panel a run, with the same bins and axes.

    Each ridge stands at its step's place, the newest strongest; heights are on one scale.

    Args:
        frame: From `probes.histogram` with `step`; `run` is used when there.
        layer: Which layer; default: the largest.
        cursor: Step whose ridge is outlined in black: the nearest one at or before it.
        bins: Bins of the picture.
        columns: Panels side by side.

    Returns:
        A figure.

    Raises:
        DataError: If a column is missing or there is no such layer.
    """
    import plotly.graph_objects as go

    require(frame, ("step", "layer", "bin_left", "bin_right", "count"), "ridge")
    if frame.empty:
        return empty("ridge")
    name = layers_of(frame, layer)[0] if layer is not None else _largest(frame)
    part, runs = frame[frame["layer"] == name], runs_of(frame)
    edges, steps = common_edges([part], bins), steps_of(part, RIDGES)
    middle = ((edges[1:] + edges[:-1]) / 2).astype("float32")
    heights = {
        (run, step): density_on(own[own["step"] == step], edges)
        for run in runs
        for own in (of_run(part, run),)
        for step in steps
        if (own["step"] == step).any()
    }
    top = max(float(density.max()) for density in heights.values()) or 1.0
    at = max((step for step in steps if cursor is not None and step <= cursor), default=None)
    grid, traces = Grid([run or f"layer {name}" for run in runs], columns=columns, room=TITLE[3]), []
    for place, (run, index) in enumerate(runs.items()):
        for order, step in reversed(list(enumerate(steps))):
            density = heights.get((run, step))
            if density is None:
                continue
            strength = 0.25 + 0.75 * order / max(1, len(steps) - 1)
            line = {"color": "#222222" if step == at else colour_of(index, strength), "width": 2 if step == at else 1.2}
            traces.append(go.Scatter(
                x=middle, y=np.full(len(middle), float(order), "float32"), mode="lines", line={"width": 0}, hoverinfo="skip",
                showlegend=False, **axes_of(place),
            ))  # fmt: skip
            traces.append(go.Scatter(
                x=middle, y=(order + OVERLAP * density / top).astype("float32"), mode="lines", line=line, fill="tonexty",
                fillcolor=colour_of(index, 0.35 * strength), name=text(run) or "weights", legendgroup=run, showlegend=False,
                customdata=density.astype("float32"), hovertemplate=f"step {step}<br>weight %{{x:.4g}}<br>density %{{customdata:.4g}}<extra></extra>",
                **axes_of(place),
            ))  # fmt: skip
    labels = [f"step {step:,}" for step in steps]
    for place in range(len(runs)):
        grid.axis("x", place, "weight", range=edges[[0, -1]].tolist())
        reach = [-0.2, len(steps) - 1 + OVERLAP + 0.1]
        ticks = [] if grid.column(place) else list(range(len(steps)))
        grid.axis("y", place, tickvals=ticks, ticktext=labels[: len(ticks)], range=reach)
    title = f"layer {text(name)}" if runs != {"": 0} else ""
    return grid.figure(traces, height=90 + 300 * grid.rows, title=title, legend=False)


def _largest(frame: pd.DataFrame) -> str:
    sizes = frame.groupby("layer", sort=False)["count"].sum()
    return str(sizes.idxmax())
