"""Losses, order and calibration of predicted quantiles.

Shapes: n rows, m levels in ascending order; q (n, m), y (n,), levels (m,).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from wbench.errors import DataError

Margins = Literal["none", "single", "vec", "adapt"]
CHUNK = 4_000_000  # numbers of a temporary


def even_levels(count: int) -> tuple[float, ...]:
    """Return levels k / (count + 1), k = 1 ... count: symmetric around 0.5.

    Args:
        count: How many.
    """
    return tuple(k / (count + 1) for k in range(1, count + 1))


def checked_levels(levels: Sequence[float], *, symmetric: bool = False) -> tuple[float, ...]:
    """Return quantile levels as numbers, or say what is wrong with them.

    Args:
        levels: Ascending, each once, strictly between 0 and 1.
        symmetric: Whether each level tau needs 1 - tau beside it.

    Returns:
        The levels.

    Raises:
        DataError: If they are not as stated.
    """
    found = tuple(float(level) for level in levels)
    if not found or not all(0.0 < level < 1.0 for level in found):
        raise DataError(f"levels={found} are not allowed; allowed: numbers strictly between 0 and 1")
    if any(b <= a for a, b in zip(found, found[1:], strict=False)):
        raise DataError(f"levels={found} must ascend, each level once; sort them and drop what is there twice")
    if symmetric and any(abs(a + b - 1.0) > 1e-9 for a, b in zip(found, reversed(found), strict=True)):
        raise DataError(f"levels must be symmetric around 0.5 for interval scores and calibration, got {found}")
    return found


def pinball(q: Tensor, y: Tensor, levels: Tensor) -> Tensor:
    r"""Return the pinball loss $\max(\tau e, (\tau - 1) e)$, $e = y - q$.

    Args:
        q: (n, m).
        y: (n,).
        levels: (m,).

    Returns:
        (n, m), in units of y.
    """
    error = y[:, None] - q
    return torch.maximum(levels * error, (levels - 1.0) * error)


def interval_score(low: Tensor, high: Tensor, y: Tensor, tau: float) -> Tensor:
    r"""Return the interval score $(u - l) + \frac{1}{\tau} (l - y)_+ + \frac{1}{\tau} (y - u)_+$ (Gneiting and Raftery, 2007, alpha = 2 tau).

    Args:
        low: Quantile at tau, (n,).
        high: Quantile at 1 - tau, (n,).
        y: (n,).
        tau: The lower level, below 0.5.

    Returns:
        (n,), in units of y; tau times it is the pinball loss of both ends together.
    """
    return (high - low) + ((low - y).clamp_min(0.0) + (y - high).clamp_min(0.0)) / tau


def weighted_interval_score(q: Tensor, y: Tensor, levels: Sequence[float]) -> Tensor:
    """Return the mean interval score over the pairs tau, 1 - tau.

    Args:
        q: (n, m).
        y: (n,).
        levels: m, symmetric around 0.5; a middle level takes no part.

    Returns:
        (n,), in units of y.

    Raises:
        DataError: If the levels are not symmetric or there is no pair.
    """
    taus = checked_levels(levels, symmetric=True)
    pairs = len(taus) // 2
    if not pairs:
        raise DataError(f"an interval score needs a pair of levels, got {taus}")
    return torch.stack([interval_score(q[:, s], q[:, -1 - s], y, taus[s]) for s in range(pairs)]).mean(0)


def crosses(q: Tensor) -> Tensor:
    """Return which rows have a quantile below that of a lower level.

    Args:
        q: (n, m).

    Returns:
        (n,), bool.
    """
    return (q.diff(dim=1) < 0).any(1)


def required_gaps(
    kind: Margins, levels: Tensor, *, delta: float = 0.0, scale: float = 0.0, residuals: Tensor | None = None
) -> Tensor:
    r"""Return the least gap between each pair of levels that the crossing penalty asks for.

    Args:
        kind: `none`: 0; `single`: `delta` for every pair; `vec`: in proportion to the levels' distance,
            $0.01\,scale\,(\tau_t - \tau_s)$; `adapt`: to the distance of the residuals' own quantiles, times `scale`.
        levels: (m,).
        delta: In units of y.
        scale: Multiplies `vec` and `adapt`.
        residuals: y minus the median of the base models' medians, (n,), for `adapt`.

    Returns:
        (m, m); entry (s, t) is read where s < t.

    Raises:
        DataError: If `adapt` gets no residuals.
    """
    if kind in {"none", "single"}:
        return torch.full((len(levels), len(levels)), delta if kind == "single" else 0.0, dtype=levels.dtype)
    if kind == "adapt" and residuals is None:
        raise DataError("margins 'adapt' need the residuals, (n,)")
    marks = 0.01 * levels if kind == "vec" else torch.quantile(residuals, levels)  # type: ignore[arg-type]
    return ((marks[None, :] - marks[:, None]) * scale).clamp_min(0.0)


def crossing_penalty(q: Tensor, gaps: Tensor) -> Tensor:
    r"""Return how far rows are from ascending with the required gaps, a mean over all pairs of levels.

    $$ C = \frac{2}{n m (m-1)} \sum_i \sum_{s<t} \mathrm{relu}(q_{is} - q_{it} + \delta_{st}) $$

    Args:
        q: (n, m).
        gaps: (m, m), of `required_gaps`.

    Returns:
        Scalar, in units of y; 0 with a single level.
    """
    m = q.shape[1]
    if m < 2:
        return q.sum() * 0.0
    pairs = torch.ones(m, m, dtype=torch.bool, device=q.device).triu(1)
    short = q[:, :, None] - q[:, None, :] + torch.where(pairs, gaps, -math.inf)
    return short.relu().sum() * (2.0 / (len(q) * m * (m - 1)))


def ascending(q: Tensor) -> Tensor:
    """Return each row sorted.

    Args:
        q: (n, m).
    """
    return q.sort(dim=1).values


def isotonic(q: Tensor) -> Tensor:
    r"""Return each row's Euclidean projection on the ascending sequences: what pooling adjacent violators gives.

    $$ q_t \leftarrow \max_{a \le t} \min_{b \ge t} \mathrm{mean}(q_a, \dots, q_b) $$

    The blocks are held fixed for the gradient, which is therefore averaged over each block.

    Args:
        q: (n, m).

    Returns:
        (n, m).
    """
    rows = max(1, CHUNK // q.shape[1] ** 2)
    return torch.cat([_isotonic(part) for part in q.split(rows)]) if len(q) else q


def _isotonic(q: Tensor) -> Tensor:
    m = q.shape[1]
    place = torch.arange(m, device=q.device)
    with torch.no_grad():
        total = torch.nn.functional.pad(q.double().cumsum(1), (1, 0))
        length = (place[None, :] - place[:, None] + 1).clamp_min(1)
        mean = (total[:, None, 1:] - total[:, :-1, None]) / length  # (n, a, b)
        mean[:, place[:, None] > place[None, :]] = math.inf
        least, end = mean.flip(2).cummin(2)  # least over b >= t, from the right
        least, end = least.flip(2), (m - 1) - end.flip(2)
        least[:, place[:, None] > place[None, :]] = -math.inf  # a > t takes no part
        start = least.argmax(1)  # (n, t)
        stop = end.gather(1, start[:, None, :])[:, 0]
        inside = (place >= start[..., None]) & (place <= stop[..., None])
        average = inside / inside.sum(2, keepdim=True)
    return torch.einsum("nts,ns->nt", average.to(q.dtype), q)


def min_max_sweep(q: Tensor) -> Tensor:
    """Return each row made ascending from its middle outward: running minimum below index m // 2, running maximum above.

    Unlike `ascending` and `isotonic` it can raise the pinball loss.

    Args:
        q: (n, m).
    """
    middle = q.shape[1] // 2
    below = q[:, : middle + 1].flip(1).cummin(1).values.flip(1)
    return torch.cat([below, q[:, middle:].cummax(1).values[:, 1:]], dim=1)


MONOTONE: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda q: q,
    "sort": ascending,
    "isotonic": isotonic,
    "mono": min_max_sweep,
}


def conformal_index(tau: float, count: int) -> int:
    """Return which smallest score of a calibration set covers the interval from tau to 1 - tau.

    Args:
        tau: The lower level, below 0.5.
        count: Calibration rows.

    Returns:
        A number from 1 to `count`.

    Raises:
        DataError: If there are too few rows: the interval would be infinite.
    """
    share = (1.0 - 2.0 * tau) * (count + 1)
    index = math.ceil(round(share, 9))  # rounding error alone would add 1, e.g. at tau 0.09 and 149 rows
    if index > count:
        least = math.ceil(round((1.0 - 2.0 * tau) / (2.0 * tau), 9))
        raise DataError(f"level {tau:g} needs at least {least} calibration rows, got {count}")
    return index


def conformal_correction(q: Tensor, y: Tensor, levels: Sequence[float]) -> Tensor:
    """Return what split conformalised quantile regression adds to each level (Romano, Patterson and Candes, 2019).

    Args:
        q: Predictions on rows that nothing was fitted on, (n, m).
        y: (n,).
        levels: m, symmetric around 0.5; a middle level is left as it is.

    Returns:
        (m,), in units of y.

    Raises:
        DataError: If the levels are not symmetric or there are too few rows.
    """
    taus = checked_levels(levels, symmetric=True)
    shift = torch.zeros_like(q[0])
    for s in range(len(taus) // 2):
        score = torch.maximum(q[:, s] - y, y - q[:, -1 - s])
        shift[-1 - s] = score.sort().values[conformal_index(taus[s], len(y)) - 1]
        shift[s] = -shift[-1 - s]
    return shift
