"""How far steps move weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wbench.plots._style import (
    DASHES,
    colour_of,
    decimate,
    empty,
    layers_of,
    layout,
    log_axis,
    marker_of,
    of_run,
    omitted,
    panels,
    require,
    runs_of,
    text,
)

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


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
    import plotly.graph_objects as go

    require(frame, ("step", "layer", "relative_update", "effective_lr"), "effective_lr")
    if frame.empty:
        return empty("effective_lr")
    layers, runs = layers_of(frame, layer), runs_of(frame)
    shown = frame[frame["layer"].isin(layers)]
    rows = {"relative_update": "relative update: |step| / |weight|"}
    if shown["effective_lr"].notna().any():
        rows["effective_lr"] = "effective learning rate, where a norm follows"
    figure, _, count = panels(list(rows.values()), columns=1)
    for run, number in runs.items():
        for order, name in enumerate(layers):
            part = of_run(shown[shown["layer"] == name], run).sort_values("step")
            colour, dash = (number, order) if len(runs) > 1 else (order, 0)
            line = {"color": colour_of(colour), "dash": DASHES[dash % len(DASHES)], "width": 2}
            label = text(f"{run}: {name}" if run else name)
            for row, column in enumerate(rows, start=1):
                values = part[part[column] > 0]
                if len(values):
                    x, y = decimate(values["step"].to_numpy(), values[column].to_numpy())
                    trace = go.Scatter(
                        x=x, y=y.astype("float32"), mode="lines+markers", marker={**marker_of(colour), "size": 4}, line=line,
                        name=label, legendgroup=label, showlegend=row == 1, hovertemplate="step %{x}: %{y:.3g}",
                    )  # fmt: skip
                    figure.add_trace(trace, row=row, col=1)
    layout(figure, height=110 + 290 * count, title=omitted(frame, layers, layer))
    figure.update_xaxes(title_text="step", row=count, col=1)
    titles = ("share of |weight|", "effective learning rate")
    for row, (column, title) in enumerate(zip(rows, titles, strict=False), start=1):
        figure.update_yaxes(title_text=title, **log_axis(shown[column][shown[column] > 0]), row=row, col=1)
    return figure
