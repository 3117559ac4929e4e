"""Learning a stream of tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wbench.plots._axes import decimate, log_axis
from wbench.plots._style import empty, layout, panels, require, style_of, text

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


def plasticity(frame: pd.DataFrame) -> go.Figure:
    """Draw effective learning rates over a stream of tasks, and below them the accuracy at each task's end.

    Args:
        frame: Columns arm, table (`metrics` or `effective_lr`) and those of the two tables; the mean over seeds is drawn.

    Returns:
        A figure.

    Raises:
        DataError: If a column is missing.
    """
    import plotly.graph_objects as go

    require(frame, ("arm", "table", "step", "name", "split", "phase", "value"), "plasticity")
    if frame.empty:
        return empty("plasticity")
    titles = ["effective learning rate, mean over normalised layers", "accuracy on a task when it ends"]
    figure, _, _ = panels(titles, columns=1)
    ends = frame[(frame["table"] == "metrics") & (frame["name"] == "accuracy") & (frame["split"] == frame["phase"])]
    rates = frame[:0]
    if "scale_invariant" in frame.columns:
        rates = frame[(frame["table"] == "effective_lr") & frame["scale_invariant"].eq(True)]
    named: set[str] = set()
    drawn: list[float] = []
    for index, arm in enumerate(dict.fromkeys(ends["arm"])):
        for row, part, column in ((1, rates, "effective_lr"), (2, ends, "value")):
            if part.empty:
                continue
            mean = part[(part["arm"] == arm) & (part["step"] > 0)].groupby("step")[column].mean().dropna()
            if len(mean):
                x, y = decimate(mean.index.to_numpy(), mean.to_numpy())
                drawn += y.tolist() if row == 1 else []
                trace = go.Scatter(
                    x=x, y=y.astype("float32"), mode="lines", name=text(arm), legendgroup=arm, line=style_of(index),
                    showlegend=arm not in named, hovertemplate="step %{x}: %{y:.4g}",
                )  # fmt: skip
                figure.add_trace(trace, row=row, col=1)
                named.add(arm)
    layout(figure, height=600)
    figure.update_xaxes(title_text="step", row=2, col=1)
    figure.update_yaxes(title_text="effective learning rate", **log_axis(drawn), row=1, col=1)
    figure.update_yaxes(title_text="accuracy (share)", range=[0, 1.03], row=2, col=1)
    return figure
