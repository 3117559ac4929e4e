"""Where weights lie between the thresholds of a lattice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wbench.plots._steps import at_step, steps_of, with_steps
from wbench.plots._style import GREY, colour_of, empty, layers_of, layout, require, style_of, text

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


def thresholds(frame: pd.DataFrame, *, layer: str | None = None) -> go.Figure:
    """Draw the distribution of latent weights in units of the lattice's step, thresholds marked, one layer over steps.

    Args:
        frame: Columns layer, place (in steps, thresholds at whole numbers), share (of weights, per bin), and `step` when there.
        layer: Which; default: the first.

    Returns:
        A figure.

    Raises:
        DataError: If a column is missing or there is no such layer.
    """
    import plotly.graph_objects as go

    require(frame, ("layer", "place", "share"), "thresholds")
    if frame.empty:
        return empty("thresholds")
    name = layers_of(frame, layer)[0]
    frame = frame[frame["layer"] == name]
    figure = go.Figure()

    def traces_at(step: int) -> list[Any]:
        part = at_step(frame, step).sort_values("place")
        return [
            go.Scatter(
                x=part["place"].to_numpy("float32"), y=part["share"].to_numpy("float32"), mode="lines", fill="tozeroy",
                fillcolor=colour_of(0, 0.25), line={**style_of(0), "shape": "hvh"}, name="latent weights",
                hovertemplate="%{x:.2f} steps: %{y:.2%} of the weights<extra></extra>",
            )
        ]  # fmt: skip

    layout(
        figure,
        height=420,
        title=f"layer {text(name)}; dashed: thresholds, where a weight changes its level",
        legend=False,
    )
    with_steps(figure, steps_of(frame), traces_at)
    reach = float(frame["place"].abs().max())
    half = max(1, round(reach / 1.6))
    for threshold in range(1 - half, half) if half <= 8 else ():
        figure.add_vline(x=threshold, line={"color": GREY, "dash": "dash", "width": 1})
    figure.update_xaxes(title_text="latent weight (steps of the lattice)", range=[-reach, reach])
    figure.update_yaxes(
        title_text="share of the weights, per bin", range=[0, 1.05 * float(frame["share"].max())], tickformat=".1%"
    )
    return figure
