"""Gradients in a subspace."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wbench.plots._axes import decimate
from wbench.plots._style import (
    DASHES,
    colour_of,
    empty,
    layers_of,
    layout,
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

ROWS = {"energy_share": "share of the gradient's energy in the subspace", "overlap": "overlap with the subspace before"}


def subspace(frame: pd.DataFrame, *, layer: str | None = None) -> go.Figure:
    """Draw, per layer, how much of the gradient a subspace keeps and how much it shares with the one before.

    Args:
        frame: Columns step, layer, overlap, energy_share, and `run`, `stable_rank` (of the gradient, shown on hover) when there.
        layer: Which; default: the first six.

    Returns:
        A figure.

    Raises:
        DataError: If a column is missing or there is no such layer.
    """
    import plotly.graph_objects as go

    require(frame, ("step", "layer", "overlap", "energy_share"), "subspace")
    if frame.empty:
        return empty("subspace")
    layers, runs = layers_of(frame, layer), runs_of(frame)
    figure, _, _ = panels(list(ROWS.values()), columns=1)
    for run, number in runs.items():
        for order, name in enumerate(layers):
            part = of_run(frame[frame["layer"] == name], run).sort_values("step")
            label = text(f"{run}: {name}" if run else name or "weight")
            line = {
                "color": colour_of(order),
                "dash": DASHES[(number if len(runs) > 1 else 0) % len(DASHES)],
                "width": 2,
            }
            for row, column in enumerate(ROWS, start=1):
                x, y = decimate(part["step"].to_numpy(), part[column].to_numpy())
                ranks = part.set_index("step")["stable_rank"].reindex(x).to_numpy() if "stable_rank" in part else None
                rank = "<br>stable rank of the gradient %{customdata:.3g}" if ranks is not None else ""
                trace = go.Scatter(
                    x=x, y=y.astype("float32"), mode="lines+markers", name=label, legendgroup=label, line=line,
                    marker=marker_of(order), showlegend=row == 1, customdata=ranks,
                    hovertemplate="step %{x}: %{y:.3f}" + rank,
                )  # fmt: skip
                figure.add_trace(trace, row=row, col=1)
    layout(figure, height=580, title=omitted(frame, layers, layer))
    figure.update_xaxes(title_text="step", row=2, col=1)
    figure.update_yaxes(range=[-0.03, 1.05], title_text="share")
    return figure
