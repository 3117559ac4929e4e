"""Where activations lie in a Poincaré ball."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wbench.plots._axes import log_axis
from wbench.plots._style import INK, axes_of, empty, layout, marker_of, panels, require, style_of

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

LINES = 4
MEANS = {"midpoint": ("midpoint", "cross-thin"), "frechet": ("Fréchet mean", "circle-open")}


def ball(frame: pd.DataFrame) -> go.Figure:
    """Draw the mean norm at each depth, at a few steps, and the last layer's points of the last step in the disc.

    The disc shows the plane of the two largest directions, scaled to radius 1. Points are coloured by target; marked are their
    Poincaré midpoint and their Fréchet mean, both of the whole ball.

    Args:
        frame: Columns step, depth, what (`sample`, `midpoint`, `frechet`), sample, target, norm, radius, x, y.

    Returns:
        A figure.

    Raises:
        DataError: If a column is missing.
    """
    import plotly.graph_objects as go

    require(frame, ("depth", "what", "sample", "target", "norm", "radius", "x", "y"), "ball")
    if frame.empty:
        return empty("ball")
    frame = frame if "step" in frame.columns else frame.assign(step=0)
    figure, _, _ = panels(["mean norm by depth", "last layer in the disc"], columns=2)
    steps = sorted(frame["step"].unique())
    shown = [steps[place] for place in np.unique(np.linspace(0, len(steps) - 1, LINES).round().astype(int))]
    norms = frame[frame["what"] == "sample"].groupby(["step", "depth"])["norm"].mean()
    for index, step in enumerate(shown):
        line = norms[step]
        figure.add_trace(
            go.Scatter(
                x=line.index, y=line.to_numpy("float32"), mode="lines+markers", line=style_of(index), marker={"size": 5},
                name=f"step {step}", legendgroup="steps", hovertemplate="depth %{x}: %{y:.3g}", **axes_of(0),
            )
        )  # fmt: skip
    angle = np.linspace(0, 2 * np.pi, 121)
    rim = {"x": np.cos(angle), "y": np.sin(angle), "mode": "lines", "line": {"color": INK, "width": 1}}
    figure.add_trace(go.Scatter(**rim, showlegend=False, hoverinfo="skip", **axes_of(1)))
    last = frame[(frame["step"] == steps[-1]) & (frame["depth"] == frame["depth"].max())]
    for index, (target, part) in enumerate(last[last["what"] == "sample"].groupby("target")):
        figure.add_trace(
            go.Scatter(
                x=part["x"].to_numpy("float32"), y=part["y"].to_numpy("float32"), mode="markers", marker=marker_of(index),
                name=f"target {target}", legendgroup="targets", hovertemplate="(%{x:.3f}, %{y:.3f})", **axes_of(1),
            )
        )  # fmt: skip
    for what, (name, symbol) in MEANS.items():
        part = last[last["what"] == what]
        figure.add_trace(
            go.Scatter(
                x=part["x"].to_numpy("float32"), y=part["y"].to_numpy("float32"), mode="markers", name=name,
                marker={"symbol": symbol, "size": 16, "color": INK, "line": {"width": 2, "color": INK}},
                hovertemplate="(%{x:.3f}, %{y:.3f})", **axes_of(1),
            )
        )  # fmt: skip
    layout(figure, height=500)
    figure.update_yaxes(title_text="norm", **log_axis(norms[shown]), row=1, col=1)
    figure.update_xaxes(title_text="depth", dtick=max(1, int(frame["depth"].max()) // 6), row=1, col=1)
    figure.update_xaxes(range=[-1.05, 1.05], title_text="first direction", constrain="domain", row=1, col=2)
    figure.update_yaxes(range=[-1.05, 1.05], title_text="second direction", scaleanchor="x2", row=1, col=2)
    return figure
