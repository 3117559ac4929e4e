"""How unlabelled samples are used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wbench.plots._axes import decimate
from wbench.plots._style import colour_of, empty, layout, panels, require, style_of

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

SHARES = {"certain": "certain", "shrunk": "certain among fewer classes", "unused": "not used"}


def utilisation(frame: pd.DataFrame) -> go.Figure:
    """Draw the shares of unlabelled samples that are certain, certain in a shrunk class space, and unused, over steps.

    Args:
        frame: Columns step, share (`certain`, `shrunk`, `unused`), value, removed (mean number of dropped classes).

    Returns:
        A figure.

    Raises:
        DataError: If a column is missing.
    """
    import plotly.graph_objects as go

    require(frame, ("step", "share", "value", "removed"), "utilisation")
    if frame.empty:
        return empty("utilisation")
    figure, _, _ = panels(
        ["use of the unlabelled samples of a step", "classes dropped from a shrunk space, mean"], columns=1
    )
    for index, (name, label) in enumerate(SHARES.items()):
        part = frame[frame["share"] == name].sort_values("step")
        figure.add_trace(
            go.Scatter(
                x=part["step"], y=part["value"].astype("float32"), mode="lines", stackgroup="shares", name=label, line=style_of(index),
                fillcolor=colour_of(index, 0.35), hovertemplate="step %{x}: %{y:.3f}",
            ),
            row=1, col=1,
        )  # fmt: skip
    first = frame[frame["share"] == "certain"].sort_values("step")
    x, y = decimate(first["step"].to_numpy(), first["removed"].to_numpy())
    line = go.Scatter(x=x, y=y, mode="lines+markers", line=style_of(3), marker={"size": 4}, name="dropped classes")
    figure.add_trace(line, row=2, col=1)
    layout(figure, height=600)
    figure.update_yaxes(title_text="share", range=[0, 1], row=1, col=1)
    figure.update_yaxes(title_text="classes", rangemode="tozero", row=2, col=1)
    figure.update_xaxes(title_text="step", row=2, col=1)
    return figure
