"""The loss around a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from wbench.plots._axes import log_axis
from wbench.plots._style import empty, layout, marker_of, of_run, panels, require, runs_of, style_of, text

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

AXIS = "distance along direction {} (1: the norm of each filter)"


def landscape(frame: pd.DataFrame) -> go.Figure:
    """Draw the loss along one direction (a line a run) or over two (contours a run, coloured by its logarithm).

    Points whose loss is not finite are left blank.

    Args:
        frame: From `probes.landscape`, with `run` when there.

    Returns:
        A figure.

    Raises:
        DataError: If a column is missing.
    """
    require(frame, ("alpha", "beta", "loss"), "landscape")
    finite = frame[np.isfinite(frame["loss"].to_numpy(float))] if len(frame) else frame
    if finite.empty:
        return empty("landscape")
    frame = frame.assign(loss=frame["loss"].where(np.isfinite(frame["loss"])))
    return _lines(frame) if frame["beta"].nunique() == 1 else _contours(frame)


def _lines(frame: pd.DataFrame) -> go.Figure:
    import plotly.graph_objects as go

    figure, runs = go.Figure(), runs_of(frame)
    for run, index in runs.items():
        part = of_run(frame, run).sort_values("alpha")
        figure.add_trace(go.Scatter(
            x=part["alpha"], y=part["loss"], mode="lines+markers", line=style_of(index), marker=marker_of(index),
            name=text(run) or "loss", hovertemplate="%{x:.2f}: %{y:.4g}",
        ))  # fmt: skip
    layout(figure, height=400, legend=len(runs) > 1)
    figure.update_xaxes(title_text=AXIS.format(1))
    figure.update_yaxes(title_text="loss", **log_axis(frame["loss"]))
    return figure


def _contours(frame: pd.DataFrame) -> go.Figure:
    import plotly.graph_objects as go

    runs = list(runs_of(frame))
    figure, places, rows = panels([run or "loss" for run in runs], columns=3)
    values = frame["loss"].dropna().to_numpy(float)
    logarithmic = bool(values.min() > 0)
    scale = np.log10(values) if logarithmic else values
    ticks = np.linspace(scale.min(), scale.max(), 5)
    labels = [f"{10**tick if logarithmic else tick:.2g}" for tick in ticks]
    bar: dict[str, Any] = {"title": {"text": "loss"}, "tickvals": ticks, "ticktext": labels}
    step = max(float(scale.max() - scale.min()) / 12, 1e-12)
    for place, run in enumerate(runs):
        table = of_run(frame, run).pivot(index="beta", columns="alpha", values="loss")
        loss = table.to_numpy(float)
        contour = go.Contour(
            x=table.columns, y=table.index, z=np.log10(loss) if logarithmic else loss, colorscale="Viridis",
            zmin=float(scale.min()), zmax=float(scale.max()), autocontour=False,
            contours={"start": float(scale.min()), "end": float(scale.max()), "size": step}, line={"width": 0.5},
            showscale=place == 0, colorbar=bar, customdata=loss,
            hovertemplate="(%{x:.2f}, %{y:.2f}): %{customdata:.4g}<extra></extra>",
        )  # fmt: skip
        figure.add_trace(contour, row=places[place][0], col=places[place][1])
    layout(figure, height=100 + 320 * rows, legend=False)
    figure.update_xaxes(title_text="direction 1 (filter norms)")
    figure.update_yaxes(title_text="direction 2 (filter norms)", col=1)
    return figure
