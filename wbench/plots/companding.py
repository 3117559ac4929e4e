"""What a companding function does to a weight."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wbench.plots._steps import at_step, steps_of, with_steps
from wbench.plots._style import GREY, INK, colour_of, empty, layers_of, layout, require, style_of, text

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


def companding(frame: pd.DataFrame, *, layer: str | None = None) -> go.Figure:
    """Draw the function w = f(v) between the density of v (below) and of w (left), one layer at a time.

    Args:
        frame: Columns layer, v, w, density_v, density_w, and `step` when there.
        layer: Which; default: the first.

    Returns:
        A figure.

    Raises:
        DataError: If a column is missing or there is no such layer.
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    require(frame, ("layer", "v", "w", "density_v", "density_w"), "companding")
    if frame.empty:
        return empty("companding")
    name = layers_of(frame, layer)[0]
    frame = frame[frame["layer"] == name]
    figure = make_subplots(
        rows=2, cols=2, column_widths=[0.25, 0.75], row_heights=[0.72, 0.28], shared_xaxes="columns", shared_yaxes="rows",
        horizontal_spacing=0.09, vertical_spacing=0.05,
    )  # fmt: skip

    def traces_at(step: int) -> list[Any]:
        part = at_step(frame, step).sort_values("v")
        v, w = part["v"].to_numpy("float32"), part["w"].to_numpy("float32")
        of_v, of_w = part["density_v"].to_numpy("float32"), part["density_w"].to_numpy("float32")
        blue = {"mode": "lines", "line": style_of(0), "fillcolor": colour_of(0, 0.25)}
        orange = {"mode": "lines", "line": style_of(1), "fillcolor": colour_of(1, 0.25)}
        curve, same = {"color": INK, "width": 3}, {"color": GREY, "dash": "dot"}
        return [
            go.Scatter(x=of_w, y=w, fill="tozerox", name="density of w", xaxis="x", yaxis="y", **orange),
            go.Scatter(x=v, y=w, mode="lines", line=curve, name="w = f(v)", xaxis="x2", yaxis="y2"),
            go.Scatter(x=v, y=v, mode="lines", line=same, name="w = v", xaxis="x2", yaxis="y2", hoverinfo="skip"),
            go.Scatter(x=v, y=of_v, fill="tozeroy", name="density of v", xaxis="x4", yaxis="y4", **blue),
        ]

    layout(figure, height=540, title=f"layer {text(name)}")
    with_steps(figure, steps_of(frame), traces_at)
    reach_v, reach_w = (1.05 * (float(frame[key].abs().max()) or 1.0) for key in ("v", "w"))
    high_v, high_w = (1.05 * (float(frame[key].max()) or 1.0) for key in ("density_v", "density_w"))
    figure.update_xaxes(title_text="density of w", range=[high_w, 0], row=1, col=1, showticklabels=True)
    figure.update_yaxes(title_text="weight w", range=[-reach_w, reach_w], row=1, col=1)
    figure.update_yaxes(range=[-reach_w, reach_w], row=1, col=2)
    figure.update_xaxes(range=[-reach_v, reach_v], row=1, col=2)
    figure.update_xaxes(title_text="trained value v", range=[-reach_v, reach_v], row=2, col=2)
    figure.update_yaxes(title_text="density of v", range=[0, high_v], showticklabels=True, nticks=4, row=2, col=2)
    figure.update_xaxes(visible=False, row=2, col=1)
    figure.update_yaxes(visible=False, row=2, col=1)
    return figure
