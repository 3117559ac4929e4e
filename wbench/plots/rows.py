"""How the rows of weights have changed: length against direction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wbench.plots._steps import at_step, steps_of, with_steps
from wbench.plots._style import colour_of, empty, layers_of, layout, require, text

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


def rows(frame: pd.DataFrame, *, layer: str | None = None) -> go.Figure:
    """Draw, for each weight vector, its length over what it was against how far it has turned, over steps.

    Args:
        frame: Columns layer, row, length, turn, and `step` when there.
        layer: Which; default: the largest few.

    Returns:
        A figure.

    Raises:
        DataError: If a column is missing or there is no such layer.
    """
    import plotly.graph_objects as go

    require(frame, ("layer", "row", "length", "turn"), "rows")
    if frame.empty:
        return empty("rows")
    names = layers_of(frame, layer)
    frame = frame[frame["layer"].isin(names)]
    figure = go.Figure()

    def traces_at(step: int) -> list[Any]:
        part = at_step(frame, step)
        found = []
        for index, name in enumerate(names):
            own = part[part["layer"] == name]
            found.append(
                go.Scatter(
                    x=own["turn"].to_numpy("float32"), y=own["length"].to_numpy("float32"), mode="markers", name=text(name),
                    marker={"color": colour_of(index, 0.7), "size": 6}, customdata=own["row"].to_numpy(),
                    hovertemplate="row %{customdata}: length %{y:.3f} of before, turned by %{x:.3g}",
                )
            )  # fmt: skip
        return found

    layout(figure, height=460)
    with_steps(figure, steps_of(frame), traces_at)
    reach = 1.05 * (float(frame["turn"].max()) or 1e-6)
    low, high = float(frame["length"].min()), float(frame["length"].max())
    room = 0.05 * max(high - low, 1e-3)
    figure.update_xaxes(title_text="turn of the weight vector, 1 - cosine", range=[-0.03 * reach, reach])
    figure.update_yaxes(title_text="length over the frozen vector's", range=[low - room, high + room])
    return figure
