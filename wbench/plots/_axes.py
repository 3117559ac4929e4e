"""Numbers on axes: how many points of a line are drawn, and what a logarithmic axis looks like."""

from __future__ import annotations

from typing import Any

import numpy as np

MAX_POINTS, LEAST_POINTS, PANEL_POINTS = 1000, 200, 4000


def decimate(x: np.ndarray, y: np.ndarray, limit: int = MAX_POINTS) -> tuple[np.ndarray, np.ndarray]:
    """Return at most `limit` points of a line, the extremes of each stretch kept.

    Args:
        x: (points,).
        y: (points,).
        limit: At most.

    Returns:
        x and y.
    """
    x, y = np.asarray(x), np.asarray(y, dtype=float)
    if len(x) <= limit:
        return x, y
    stretches = (limit - 2) // 2
    size, longer = divmod(len(x), stretches)  # the first ones have a point more
    keep = [np.array([0, len(x) - 1])]
    for start, rows, columns in ((0, longer, size + 1), (longer * (size + 1), stretches - longer, size)):
        part = y[start : start + rows * columns].reshape(rows, columns)
        some = ~np.isnan(part).all(axis=1)
        begins = start + columns * np.flatnonzero(some)
        for nothing, extreme in ((np.inf, np.argmin), (-np.inf, np.argmax)):
            filled = np.where(np.isnan(part[some]), nothing, part[some])
            keep.append(begins + (extreme(filled, axis=1) if filled.size else 0))
    index = np.unique(np.concatenate(keep))
    return x[index], y[index]


def points_each(lines: int) -> int:
    """Return how many points each line of a panel may have: 1,000, fewer where more than four share it, and 200 at least.

    Args:
        lines: Lines in the panel.
    """
    return min(MAX_POINTS, max(LEAST_POINTS, PANEL_POINTS // max(1, lines)))


def log_axis(values: Any) -> dict[str, Any]:
    """Return the settings of an axis for values over some decades: logarithmic where all are positive, with ticks that fit.

    Args:
        values: What is drawn; NaN and infinities do not matter.
    """
    numbers = np.asarray(values, dtype=float)
    numbers = numbers[np.isfinite(numbers)]
    if not len(numbers) or numbers.min() <= 0:
        return {"type": "linear"}
    low, high = np.log10([numbers.min(), numbers.max()])
    span = max(high - low, 0.05)
    return {"type": "log", "range": [low - 0.05 * span, high + 0.05 * span], **decade_ticks(span)}


def decade_ticks(decades: float) -> dict[str, Any]:
    """Return the ticks of a logarithmic axis: each decade, or 1, 2, 5 of each where there is room.

    Args:
        decades: Length of the axis.
    """
    step: dict[str, Any] = {"dtick": 1} if decades > 2.6 else {"dtick": "D2"} if decades > 0.9 else {}
    return {"exponentformat": "power", **step}
