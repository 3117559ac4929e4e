"""Densities of weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from wbench.plots._grid import Grid, line
from wbench.plots._steps import rows_at, steps_of, with_steps
from wbench.plots._style import (
    axes_of,
    colour_of,
    empty,
    layers_of,
    omitted,
    parts_of,
    require,
    runs_of,
    style_of,
    text,
)

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    Columns = pd.DataFrame | dict[str, np.ndarray]


def rebin(left: np.ndarray, right: np.ndarray, count: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return counts on other bins, each bin's mass spread evenly over it; the mass is kept.

    Args:
        left: Left ends, increasing; each bin begins where the one before ends.
        right: Right ends.
        count: Counts.
        edges: New increasing edges, which cover the old ones.

    Returns:
        (len(edges) - 1,).
    """
    ends = np.concatenate([left[:1], right])
    mass = np.concatenate([[0.0], np.cumsum(count)])
    return np.diff(np.interp(edges, ends, mass))


def histogram(
    frame: pd.DataFrame,
    *,
    layer: str | None = None,
    bins: int = 80,
    step: int | None = None,
    columns: int = 3,
    scale: Literal["linear", "log"] | None = None,
) -> go.Figure:
    """Draw the density of weights, layer by layer; runs share bins and axes, a slider scrubs the steps.

    Args:
        frame: From `probes.histogram`; `step` and `run` columns are used when there.
        layer: One layer; default: the six largest.
        bins: Bins of the picture, over the range of all its runs and steps.
        step: Only the state there (the nearest earlier one that was recorded), without a slider; the bins stay those of all steps.
        columns: Panels side by side.
        scale: Of the density; default: linear, with buttons that change it.

    Returns:
        A figure.

    Raises:
        DataError: If a column is missing or there is no such layer.
    """
    require(frame, ("layer", "bin_left", "bin_right", "count"), "histogram")
    if frame.empty:
        return empty("histogram")
    layers, runs = layers_of(frame, layer), runs_of(frame)
    title = omitted(frame, layers, layer)
    parts = parts_of(frame, layers, runs, ("step", "bin_left", "bin_right", "count"))
    edges = {name: common_edges([parts[name, run] for run in runs], bins) for name in layers}
    low, high = dict.fromkeys(layers, np.inf), dict.fromkeys(layers, 0.0)
    grid = Grid([f"layer {name}" for name in layers], columns=columns)

    def traces_at(step: int) -> list[Any]:
        traces = []
        for place, name in enumerate(layers):
            for run, index in runs.items():
                density = density_on(rows_at(parts[name, run], step), edges[name])
                low[name] = min(low[name], float(density[density > 0].min(initial=np.inf)))
                high[name] = max(high[name], float(density.max()))
                traces.append(line(
                    x=np.repeat(edges[name], 2)[1:-1].astype("float32"), y=np.repeat(density, 2).astype("float32"),
                    mode="lines", name=text(run) or "weights", legendgroup=run, line=style_of(index),
                    fill="tozeroy" if len(runs) == 1 else None, fillcolor=colour_of(index, 0.25), showlegend=place == 0,
                    hovertemplate="weight %{x:.4g}<br>density %{y:.4g}", **axes_of(place),
                ))  # fmt: skip
        return traces

    steps = steps_of(frame) if step is None else [step]
    states = {step: traces_at(step) for step in steps}
    scales: dict[str, dict[str, Any]] = {"linear": {}, "log": {}}
    for place, name in enumerate(layers):
        axis = axes_of(place)["yaxis"].replace("y", "yaxis")
        ends = {"linear": [0, 1.05 * high[name]], "log": np.log10([0.7 * low[name], 1.5 * high[name]]).tolist()}
        for kind, end in ends.items():
            scales[kind] |= {f"{axis}.type": kind, f"{axis}.range": end}
        grid.axis("x", place, "weight", range=edges[name][[0, -1]].tolist())
        title_y = "" if grid.column(place) else "density (1 / weight)"
        grid.axis("y", place, title_y, type=scale or "linear", range=ends[scale or "linear"])
    if scale is None:
        grid.layout["updatemenus"] = [{
            "type": "buttons", "direction": "right", "x": 1, "xanchor": "right", "y": 1, "yanchor": "bottom", "pad": {"b": 27, "t": 0},
            "font": {"size": 12}, "showactive": True,
            "buttons": [{"label": f"{kind} density", "method": "relayout", "args": [settings]} for kind, settings in scales.items()],
        }]  # fmt: skip
        grid.layout["margin"] = {"l": 80, "r": 30, "t": 80 + 25 * bool(title), "b": 60}
    figure = grid.figure(
        (), height=(135 if scale is None else 100) + 270 * grid.rows, title=title, legend=len(runs) > 1
    )
    return with_steps(figure, steps, states.__getitem__)


def common_edges(parts: Sequence[Columns], bins: int) -> np.ndarray:
    """Return bin edges that cover several tables of bins.

    Args:
        parts: Each with `bin_left` and `bin_right`.
        bins: How many.

    Returns:
        (bins + 1,).
    """
    low = min(float(part["bin_left"].min()) for part in parts if len(part["bin_left"]))
    high = max(float(part["bin_right"].max()) for part in parts if len(part["bin_right"]))
    return np.linspace(low, high, bins + 1)


def density_on(part: Columns, edges: np.ndarray) -> np.ndarray:
    """Return the density of one recorded histogram on other bins.

    Args:
        part: `bin_left`, `bin_right`, `count` of one layer at one step; empty: zeros.
        edges: Increasing edges that cover it.

    Returns:
        (len(edges) - 1,), which integrates to 1.
    """
    if not len(part["count"]):
        return np.zeros(len(edges) - 1)
    left, right, count = (np.asarray(part[key], float) for key in ("bin_left", "bin_right", "count"))
    counts = rebin(left, right, count, edges)
    return counts / max(float(counts.sum()), 1.0) / np.diff(edges)
