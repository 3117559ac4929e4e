"""Settings and results of many runs side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from wbench.plots._style import empty, layout, require, text

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

AXES = 10


def parallel(frame: pd.DataFrame, *, result: str) -> go.Figure:
    """Draw runs as lines over their settings and a result, coloured by the result; brushing an axis picks runs.

    Positive numbers over two decades or more stand on a logarithmic axis, text on one stop each; a run without a setting is at "–".

    Args:
        frame: One row a run, a column a setting, and the result.
        result: Column that colours the lines, drawn last.

    Returns:
        A figure.

    Raises:
        DataError: If there is no such column.
    """
    import plotly.graph_objects as go

    require(frame, (result,), "parallel")
    if frame.empty:
        return empty("parallel")
    frame = frame[np.isfinite(frame[result].astype(float))]
    names = [name for name in frame.columns if name != result and frame[name].nunique(dropna=False) > 1]
    if frame.empty or not names:
        return empty("parallel")
    shown = [*names[: AXES - 1], result]
    colours = frame[result].to_numpy("float32")
    figure = go.Figure(go.Parcoords(
        dimensions=[_axis(frame[name], name) for name in shown], labelangle=-12, labelside="top",
        line={"color": colours, "colorscale": "Viridis", "showscale": True, "colorbar": {"title": {"text": text(result)}}},
    ))  # fmt: skip
    more = f"{len(shown) - 1} of {len(names)} settings that differ" if len(shown) - 1 < len(names) else ""
    layout(figure, height=420, title=more)
    first = figure.data[0].dimensions[0].ticktext or ()
    room = max(90, 30 + 7 * max((len(word) for word in first), default=0))  # words stand to the left of the first axis
    figure.update_layout(margin={"t": 110, "l": room, "r": 40, "b": 30})
    return figure


def brushed(figure: go.Figure, ranges: Mapping[str, Sequence[Sequence[float]]]) -> np.ndarray:
    """Return which runs of a figure of `parallel` lie within what is brushed on its axes.

    Args:
        figure: From `parallel`.
        ranges: Label of an axis to its ranges `[low, high]`, in the axis's own numbers, as plotly.js tells them.

    Returns:
        (runs,) of truth values, in the order of the finite rows of the frame; all true where nothing is brushed.
    """
    axes = figure.data[0].dimensions
    inside = np.ones(len(axes[0]["values"]), dtype=bool)
    for axis in axes:
        if axis.label in ranges:
            values = np.asarray(axis["values"], dtype=float)
            inside &= np.any([(low <= values) & (values <= high) for low, high in ranges[axis.label]], axis=0)
    return inside


def _axis(values: pd.Series, name: str) -> dict[str, Any]:
    import pandas as pd

    axis: dict[str, Any] = {"label": text(name)}
    numbers = pd.to_numeric(values, errors="coerce")
    if numbers.notna().all() and values.dtype != bool:
        array = numbers.to_numpy(float)
        if array.min() > 0 and array.max() / array.min() >= 100:
            logs = np.log10(array)
            ticks = np.unique(
                np.concatenate([np.arange(np.ceil(logs.min()), np.floor(logs.max()) + 1), [logs.min(), logs.max()]])
            )
            return axis | {"values": logs, "tickvals": ticks, "ticktext": [f"{10**tick:.3g}" for tick in ticks]}
        if len(np.unique(array)) <= 8:
            ticks = np.unique(array)
            return axis | {"values": array, "tickvals": ticks, "ticktext": [f"{tick:.4g}" for tick in ticks]}
        return axis | {"values": array, "tickformat": ".4g"}
    words = [_word(value, missing) for value, missing in zip(values, values.isna(), strict=True)]
    stops = sorted(set(words), key=_place)
    return axis | {
        "values": [stops.index(word) for word in words], "tickvals": list(range(len(stops))),
        "ticktext": [text(stop)[:24] for stop in stops],
    }  # fmt: skip


def _word(value: Any, missing: bool) -> str:
    if missing:
        return "–"
    return f"{value:.4g}" if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)


def _place(word: str) -> tuple[bool, float, str]:
    # numbers as such, then words
    try:
        return False, float(word), ""
    except ValueError:
        return True, 0.0, word
