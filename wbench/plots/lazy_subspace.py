"""Subspaces that are renewed at each layer's own pace."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wbench.plots._axes import decimate
from wbench.plots._style import empty, layers_of, layout, panels, require, style_of, text

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

PANELS = {
    "cosine": "leading direction: similarity to before",
    "gap": "steps between refreshes",
    "refreshes": "refreshes so far (one SVD each)",
    "changed": "weights that change level in a step",
}


def lazy_subspace(frame: pd.DataFrame, *, layer: str | None = None) -> go.Figure:
    """Draw, for each layer over steps, how its leading direction stays, how often it is renewed, and how many levels change.

    Args:
        frame: Columns step, layer, cosine, gap, refreshes, changed.
        layer: Which; default: the largest few.

    Returns:
        A figure.

    Raises:
        DataError: If a column is missing or there is no such layer.
    """
    import plotly.graph_objects as go

    require(frame, ("step", "layer", *PANELS), "lazy_subspace")
    if frame.empty:
        return empty("lazy_subspace")
    figure, _, _ = panels(list(PANELS.values()), columns=2)
    for index, name in enumerate(layers_of(frame, layer)):
        part = frame[frame["layer"] == name].sort_values("step")
        for place, column in enumerate(PANELS):
            x, y = decimate(part["step"].to_numpy(), part[column].to_numpy())
            shape = {"shape": "hv"} if column in {"gap", "refreshes"} else {}
            trace = go.Scatter(
                x=x, y=y.astype("float32"), mode="lines+markers", marker={"size": 4}, line={**style_of(index), **shape}, name=text(name),
                legendgroup=name, showlegend=place == 0, hovertemplate="step %{x}: %{y:.4g}",
            )  # fmt: skip
            figure.add_trace(trace, row=place // 2 + 1, col=place % 2 + 1)
    layout(figure, height=620)
    figure.update_xaxes(title_text="step", row=2)
    figure.update_yaxes(range=[0, 1.03], row=1, col=1, title_text="absolute cosine")
    figure.update_yaxes(rangemode="tozero", row=1, col=2, title_text="steps")
    figure.update_yaxes(rangemode="tozero", row=2, col=1, title_text="count")
    figure.update_yaxes(rangemode="tozero", row=2, col=2, title_text="share")
    return figure
