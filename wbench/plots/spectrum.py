"""Singular values of weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from wbench.plots._axes import decade_ticks
from wbench.plots._grid import Grid, line
from wbench.plots._steps import rows_at, steps_of, with_steps
from wbench.plots._style import axes_of, empty, layers_of, omitted, parts_of, require, runs_of, style_of, text

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

DECADES = 4.0  # shown below the largest value


def spectrum(frame: pd.DataFrame, *, layer: str | None = None, step: int | None = None, columns: int = 3) -> go.Figure:
    """Draw singular values against their index, layer by layer; runs side by side, a slider scrubs the steps.

    The axis shows four decades below a layer's largest value; zeros lie beneath it.

    Args:
        frame: From `probes.spectrum`; `step` and `run` columns are used when there.
        layer: One layer; default: the six largest.
        step: Only the state there (the nearest earlier one that was recorded), without a slider; the axes stay.
        columns: Panels side by side.

    Returns:
        A figure.

    Raises:
        DataError: If a column is missing or there is no such layer.
    """
    require(frame, ("layer", "index", "singular_value", "stable_rank"), "spectrum")
    if frame.empty:
        return empty("spectrum")
    layers, runs = layers_of(frame, layer), runs_of(frame)
    title = omitted(frame, layers, layer)
    parts = parts_of(frame, layers, runs, ("step", "index", "singular_value", "stable_rank"))
    values_of = {name: [parts[name, run]["singular_value"].astype(float) for run in runs] for name in layers}
    ranges = {name: _range(np.concatenate(values)) for name, values in values_of.items()}
    grid = Grid([f"layer {name}" for name in layers], columns=columns)

    def traces_at(step: int) -> list[Any]:
        traces = []
        for place, name in enumerate(layers):
            for run, index in runs.items():
                part = rows_at(parts[name, run], step)
                order = np.argsort(part["index"], kind="stable")
                rank = f"{part['stable_rank'][order[0]]:.3g}" if len(order) else "not recorded"
                values = np.maximum(part["singular_value"][order].astype(float), 10 ** (ranges[name][0] - 1))
                single = len(layers) == 1
                traces.append(line(
                    x=part["index"][order], y=values.astype("float32"), mode="lines", line=style_of(index),
                    name=(text(run) or "weights") + (f" (stable rank {rank})" if single else ""), legendgroup=run,
                    showlegend=place == 0, **axes_of(place),
                    hovertemplate=f"index %{{x}}<br>singular value %{{y:.4g}}<br>stable rank {rank}",
                ))  # fmt: skip
        return traces

    for place, name in enumerate(layers):
        low, high = ranges[name]
        grid.axis("x", place, "index")
        title_text = "" if grid.column(place) else "singular value"
        grid.axis("y", place, title_text, type="log", range=[low, high], **decade_ticks(high - low))
    legend = len(runs) > 1 or len(layers) == 1
    figure = grid.figure((), height=100 + 270 * grid.rows, title=title, legend=legend)
    steps = steps_of(frame) if step is None else [step]
    return with_steps(figure, steps, traces_at)


def _range(values: np.ndarray) -> tuple[float, float]:
    positive = values[values > 0]
    if not len(positive):
        return -1.0, 1.0
    low, high = np.log10([positive.min(), positive.max()])
    return float(max(low, high - DECADES)) - 0.1, float(high) + 0.1
