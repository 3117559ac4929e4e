"""A layer's singular values over training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wbench.plots._axes import log_axis
from wbench.plots._grid import Grid
from wbench.plots._steps import steps_of
from wbench.plots._style import INK, TITLE, axes_of, colour_of, empty, layers_of, of_run, require, runs_of, text

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

LINES = 10
DECADES = 4.0


def spectrum_steps(
    frame: pd.DataFrame, *, layer: str | None = None, cursor: int | None = None, columns: int = 3
) -> go.Figure:
    """Draw how a layer's singular values change over the steps: light to dark, the newest strongest; a panel a run.

    Args:
        frame: From `probes.spectrum` with `step`; `run` is used when there.
        layer: Which layer; default: the largest.
        cursor: Step whose line is drawn in black: the nearest one at or before it.
        columns: Panels side by side.

    Returns:
        A figure.

    Raises:
        DataError: If a column is missing or there is no such layer.
    """
    import plotly.graph_objects as go

    require(frame, ("step", "layer", "index", "singular_value", "stable_rank"), "spectrum_steps")
    if frame.empty:
        return empty("spectrum_steps")
    name = (
        layers_of(frame, layer)[0]
        if layer is not None
        else str(frame.groupby("layer", sort=False)["index"].max().idxmax())
    )
    part, runs = frame[frame["layer"] == name], runs_of(frame)
    steps = steps_of(part, LINES)
    at = max((step for step in steps if cursor is not None and step <= cursor), default=None)
    floor = float(part["singular_value"].max()) * 10**-DECADES
    grid, traces = Grid([run or f"layer {name}" for run in runs], columns=columns, room=TITLE[3]), []
    for place, (run, index) in enumerate(runs.items()):
        own = of_run(part, run)
        for order, step in enumerate(steps):
            values = own[own["step"] == step].sort_values("index")
            if values.empty:
                continue
            colour = INK if step == at else colour_of(index, 0.2 + 0.8 * order / max(1, len(steps) - 1))
            heights = np.maximum(values["singular_value"].to_numpy(float), floor / 10).astype("float32")
            rank = float(values["stable_rank"].iloc[0])
            traces.append(go.Scatter(
                x=values["index"].to_numpy(), y=heights, mode="lines", line={"color": colour, "width": 2 if step == at else 1.4},
                showlegend=False, name=text(run) or "weights", legendgroup=run,
                hovertemplate=f"step {step}<br>index %{{x}}<br>singular value %{{y:.4g}}<br>stable rank {rank:.3g}<extra></extra>",
                **axes_of(place),
            ))  # fmt: skip
    scale = log_axis(np.maximum(part["singular_value"].to_numpy(float), floor))
    for place in range(len(runs)):
        grid.axis("x", place, "index")
        grid.axis("y", place, "" if grid.column(place) else "singular value", **scale)
    title = f"layer {text(name)}" if runs != {"": 0} else ""
    return grid.figure(traces, height=90 + 300 * grid.rows, title=title, legend=False)
