"""A model as a stack of blocks: what each adds in bytes and takes off the loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wbench.plots._axes import log_axis
from wbench.plots._steps import at_step, steps_of, with_steps
from wbench.plots._style import GREY, MARKERS, PALETTE, axes_of, empty, layout, of_run, require, runs_of, text

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


def blocks(frame: pd.DataFrame) -> go.Figure:
    """Draw the loss against the bytes of a model as blocks are loaded in order: a dot for each, filled while it is loaded.

    A slider moves the budget. Of several runs the first is drawn, at its last step.

    Args:
        frame: Columns place, layer, level, bytes, loss; `run` and `step` when there.

    Returns:
        A figure.

    Raises:
        DataError: If a column is missing.
    """
    import plotly.graph_objects as go

    require(frame, ("place", "layer", "level", "bytes", "loss"), "blocks")
    if frame.empty:
        return empty("blocks")
    frame = of_run(frame, next(iter(runs_of(frame))))
    frame = at_step(frame, steps_of(frame)[-1]).sort_values("place")
    span = [float(frame["loss"].min()), float(frame["loss"].max())]

    def traces_at(budget: int) -> list[Any]:
        line = {"color": GREY, "width": 1}
        curve = {"x": frame["bytes"], "y": frame["loss"], "mode": "lines", "line": line}
        limit = {"x": [budget, budget], "y": span, "mode": "lines", "line": {**line, "dash": "dash"}, "name": "budget"}
        traces = [
            go.Scatter(**trace, hoverinfo="skip", **axes_of(0)) for trace in ({**curve, "showlegend": False}, limit)
        ]
        for index, (name, part) in enumerate(frame.groupby("layer", sort=False)):
            symbol = "star" if index == 0 else MARKERS[((index - 1) // len(PALETTE)) % len(MARKERS)]
            colour = GREY if index == 0 else PALETTE[(index - 1) % len(PALETTE)]
            fill = [colour if size <= budget else "white" for size in part["bytes"]]
            traces.append(go.Scatter(
                x=part["bytes"], y=part["loss"], mode="markers", name=text(name), customdata=part["level"],
                marker={"color": fill, "symbol": symbol, "size": 9, "line": {"color": colour, "width": 1.5}},
                hovertemplate="block %{customdata}: %{x:,} bytes, loss %{y:.4g}", **axes_of(0),
            ))  # fmt: skip
        return traces

    figure = go.Figure()
    layout(figure, height=460)
    figure.update_xaxes(title_text="bytes of all weights loaded")
    figure.update_yaxes(title_text="loss on calibration data", **log_axis(frame["loss"]))
    with_steps(figure, steps_of(frame.assign(step=frame["bytes"])), traces_at)
    if figure.layout.sliders:
        figure.layout.sliders[0].currentvalue.prefix = "budget in bytes: "
    return figure
