"""Singular values of weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from wbench.plots._steps import at_step, steps_of, with_steps
from wbench.plots._style import (
    axes_of,
    decade_ticks,
    empty,
    layers_of,
    layout,
    of_run,
    omitted,
    panels,
    require,
    runs_of,
    style_of,
    text,
)

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

DECADES = 4.0  # shown below the largest value


def spectrum(frame: pd.DataFrame, *, layer: str | None = None) -> go.Figure:
    """Draw singular values against their index, layer by layer; runs side by side, a slider scrubs the steps.

    The axis shows four decades below a layer's largest value; zeros lie beneath it.

    Args:
        frame: From `probes.spectrum`; `step` and `run` columns are used when there.
        layer: One layer; default: the six largest.

    Returns:
        A figure.

    Raises:
        DataError: If a column is missing or there is no such layer.
    """
    import plotly.graph_objects as go

    require(frame, ("layer", "index", "singular_value", "stable_rank"), "spectrum")
    if frame.empty:
        return empty("spectrum")
    layers, runs = layers_of(frame, layer), runs_of(frame)
    title = omitted(frame, layers, layer)
    parts = {(name, run): of_run(frame[frame["layer"] == name], run) for name in layers for run in runs}
    ranges = {name: _range(frame[frame["layer"] == name]["singular_value"].to_numpy(float)) for name in layers}
    figure, places, rows = panels([f"layer {name}" for name in layers])

    def traces_at(step: int) -> list[Any]:
        traces = []
        for place, name in enumerate(layers):
            for run, index in runs.items():
                part = at_step(parts[name, run], step).sort_values("index")
                rank = f"{part['stable_rank'].iloc[0]:.3g}" if len(part) else "not recorded"
                values = np.maximum(part["singular_value"].to_numpy(float), 10 ** (ranges[name][0] - 1))
                single = len(layers) == 1
                traces.append(go.Scatter(
                    x=part["index"].to_numpy(), y=values.astype("float32"), mode="lines", line=style_of(index),
                    name=(text(run) or "weights") + (f" (stable rank {rank})" if single else ""), legendgroup=run,
                    showlegend=place == 0, **axes_of(place),
                    hovertemplate=f"index %{{x}}<br>singular value %{{y:.4g}}<br>stable rank {rank}",
                ))  # fmt: skip
        return traces

    layout(figure, height=100 + 270 * rows, title=title, legend=len(runs) > 1 or len(layers) == 1)
    with_steps(figure, steps_of(frame), traces_at)
    for place, (row, column) in enumerate(places):
        low, high = ranges[layers[place]]
        figure.update_xaxes(title_text="index", row=row, col=column)
        title_text = "singular value" if column == 1 else ""
        figure.update_yaxes(
            title_text=title_text, type="log", range=[low, high], **decade_ticks(high - low), row=row, col=column
        )
    return figure


def _range(values: np.ndarray) -> tuple[float, float]:
    positive = values[values > 0]
    if not len(positive):
        return -1.0, 1.0
    low, high = np.log10([positive.min(), positive.max()])
    return float(max(low, high - DECADES)) - 0.1, float(high) + 0.1
