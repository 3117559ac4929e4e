"""Where activations lie in a Poincaré ball."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from wbench.plots._axes import log_axis
from wbench.plots._grid import Grid, line
from wbench.plots._style import INK, axes_of, empty, marker_of, of_run, require, runs_of, style_of

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

LINES, DISCS = 3, 3
MEANS = {"midpoint": ("midpoint", "cross-thin"), "frechet": ("Fréchet mean", "circle-open")}


def ball(frame: pd.DataFrame) -> go.Figure:
    """Draw the mean norm at each depth, at a few steps, and the points of the last step in the disc, at three depths; a row a run.

    A disc shows the plane of the two largest directions, scaled to radius 1. Points are coloured by target; marked are their
    Poincaré midpoint and their Fréchet mean, both of the whole ball.

    Args:
        frame: Columns step, depth, what (`sample`, `midpoint`, `frechet`), sample, target, norm, radius, x, y; `run` is used when
            there: the starts side by side, say.

    Returns:
        A figure.

    Raises:
        DataError: If a column is missing.
    """
    require(frame, ("depth", "what", "sample", "target", "norm", "radius", "x", "y"), "ball")
    if frame.empty:
        return empty("ball")
    frame = frame if "step" in frame.columns else frame.assign(step=0)
    runs = list(runs_of(frame))
    depths = _spread(sorted(frame["depth"].unique()), DISCS)
    titles = [
        f"{run}: {what}" if run else what
        for run in runs
        for what in ("mean norm", *(f"depth {depth}" for depth in depths))
    ]
    grid, traces = Grid(titles, columns=1 + len(depths), room=22), []
    sampled = frame[frame["what"] == "sample"]
    targets = sorted(sampled["target"].unique().tolist())
    by = [*(["run"] if "run" in frame.columns else []), "step", "depth"]
    norms = sampled.groupby(by, observed=True)["norm"].mean()
    scale = log_axis(norms[norms > 0])  # a signal that has died lies below
    for row, run in enumerate(runs):
        own = of_run(frame, run)
        place = row * (1 + len(depths))
        traces += _norms(own, place, first=row == 0)
        grid.axis("x", place, "depth", dtick=max(1, int(own["depth"].max()) // 4))
        grid.axis("y", place, "norm", **scale)
        last = own[own["step"] == own["step"].max()]
        for column, depth in enumerate(depths, 1):
            traces += _disc(last[last["depth"] == depth], place + column, targets, first=row == 0 and column == 1)
            settings = {"range": [-1.08, 1.08], "showgrid": False, "tickvals": [-1, 0, 1]}
            grid.axis("x", place + column, "first direction", constrain="domain", **settings)
            grid.axis(
                "y", place + column, "second" if column == 1 else "", scaleanchor=f"x{place + column + 1}", **settings
            )
    grid.layout["legend"] = {"x": 1.02, "y": 1, "xanchor": "left", "yanchor": "top", "tracegroupgap": 0}
    return grid.figure(traces, height=max(430, 110 + 250 * grid.rows))


def _spread(values: list[int], most: int) -> list[int]:
    return [values[place] for place in np.unique(np.linspace(0, len(values) - 1, most).round().astype(int))]


def _norms(own: pd.DataFrame, place: int, first: bool) -> list[dict[str, Any]]:
    norms = own[own["what"] == "sample"].groupby(["step", "depth"])["norm"].mean()
    traces = []
    for index, step in enumerate(_spread(sorted(own["step"].unique()), LINES)):
        at_depths = norms[step]
        traces.append(line(
            x=at_depths.index.to_numpy(), y=at_depths.to_numpy("float32"), mode="lines+markers", line=style_of(index), marker={"size": 5},
            name=f"step {step}", legendgroup=f"step {step}", showlegend=first, hovertemplate="depth %{x}: %{y:.3g}", **axes_of(place),
        ))  # fmt: skip
    return traces


def _disc(part: pd.DataFrame, place: int, targets: list[int], first: bool) -> list[dict[str, Any]]:
    angle = np.linspace(0, 2 * np.pi, 121)
    rim = {"x": np.cos(angle), "y": np.sin(angle), "mode": "lines", "line": {"color": INK, "width": 1}}
    traces = [line(**rim, showlegend=False, hoverinfo="skip", **axes_of(place))]
    for index, target in enumerate(targets):
        points = part[(part["what"] == "sample") & (part["target"] == target)]
        traces.append(line(
            x=points["x"].to_numpy("float32"), y=points["y"].to_numpy("float32"), mode="markers", marker={**marker_of(index), "size": 4},
            name=f"target {target}", legendgroup=f"target {target}", showlegend=first, hovertemplate="(%{x:.3f}, %{y:.3f})", **axes_of(place),
        ))  # fmt: skip
    for what, (name, symbol) in MEANS.items():
        points = part[part["what"] == what]
        traces.append(line(
            x=points["x"].to_numpy("float32"), y=points["y"].to_numpy("float32"), mode="markers", name=name, legendgroup=name,
            marker={"symbol": symbol, "size": 12, "color": INK, "line": {"width": 2, "color": INK}}, showlegend=first,
            hovertemplate="(%{x:.3f}, %{y:.3f})", **axes_of(place),
        ))  # fmt: skip
    return traces
