"""How far steps move weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wbench.plots._axes import decimate, log_axis
from wbench.plots._grid import Grid, line
from wbench.plots._style import (
    DASHES,
    axes_of,
    colour_of,
    empty,
    layers_of,
    marker_of,
    omitted,
    parts_of,
    require,
    runs_of,
    text,
)

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

MANY = 150  # records, beyond which they are not marked one by one: each mark is a shape that a browser keeps


def effective_lr(frame: pd.DataFrame, *, layer: str | None = None) -> go.Figure:
    """Draw how far a step moves each weight, relative to it, and the effective rate where a norm follows.

    Runs are told apart by colour and their layers by dash; layers of a single run by colour.

    Args:
        frame: From `probes.effective_lr`, with `step`, and `run` when there.
        layer: Which; default: the first six.

    Returns:
        A figure.

    Raises:
        DataError: If a column is missing or there is no such layer.
    """
    require(frame, ("step", "layer", "relative_update", "effective_lr"), "effective_lr")
    if frame.empty:
        return empty("effective_lr")
    layers, runs = layers_of(frame, layer), runs_of(frame)
    rows = {
        "relative_update": "relative update: |step| / |weight|",
        "effective_lr": "effective learning rate, where a norm follows",
    }
    parts = parts_of(frame, layers, runs, ("step", *rows))
    drawn = {column: np.concatenate([part[column] for part in parts.values()]) for column in rows}
    if np.isnan(drawn["effective_lr"]).all():
        del rows["effective_lr"]
    mode = "lines+markers" if len(drawn["relative_update"]) <= MANY else "lines"
    grid, traces = Grid(list(rows.values()), columns=1), []
    for run, number in runs.items():
        for order, name in enumerate(layers):
            part = parts[name, run]
            by_step = np.argsort(part["step"], kind="stable")
            colour, dash = (number, order) if len(runs) > 1 else (order, 0)
            style = {"color": colour_of(colour), "dash": DASHES[dash % len(DASHES)], "width": 2}
            label = text(f"{run}: {name}" if run else name)
            for place, column in enumerate(rows):
                values = part[column][by_step]
                positive = values > 0
                if positive.any():
                    x, y = decimate(part["step"][by_step][positive], values[positive])
                    trace = line(
                        x=x, y=y.astype("float32"), mode=mode, marker={**marker_of(colour), "size": 4}, line=style,
                        name=label, legendgroup=label, showlegend=place == 0, hovertemplate="step %{x}: %{y:.3g}", **axes_of(place),
                    )  # fmt: skip
                    traces.append(trace)
    titles = ("share of |weight|", "effective learning rate")
    for place, (column, title) in enumerate(zip(rows, titles, strict=False)):
        grid.axis("x", place, "step" if place == len(rows) - 1 else "")
        grid.axis("y", place, title, **log_axis(drawn[column][drawn[column] > 0]))
    return grid.figure(traces, height=110 + 290 * len(rows), title=omitted(frame, layers, layer))
