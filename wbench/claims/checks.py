"""Checks: what must hold for a claim to count as reproduced, and the interval that decides it.

Everything is paired: a seed (and a test item within it) is resampled for all arms at once. Intervals are two-sided, 95 %.

At eight seeds with the truth at the threshold, a check on a mean of normal, t3, log-normal (0.5) and exponential noise (the
long tail where it hurts) passes in 100 cases: percentile bootstrap 5, 5, 11, 14; t 2, 2, 7, 10; bootstrap-t 2, 3, 5, 5. So
the interval is, end by end, the wider of t and bootstrap-t (Efron and Tibshirani, 1993, section 12.5): 2, 2, 5, 5. With
fewer than 8 seeds, and no test items to resample, no check is decided.

A share of seeds has Clopper and Pearson's interval. Spearman's correlation takes few values, so that eight seeds at 1 say
less than their variance of zero: for either end one more seed is counted, a swap of neighbours beyond the worst there is.
Without it a check at 0.9 over 3 arms passes wrongly in 18 of 100 cases, with it in none (at 0.8: 4 of 100).
`tests/test_verdict.py` repeats these simulations.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from scipy import stats

from wbench.errors import ClaimError

RESAMPLES = 10_000
LEVEL = 0.95
TAILS = [50 * (1 - LEVEL), 50 * (1 + LEVEL)]  # percentiles
MIN_SEEDS = 8
MIN_ITEMS = 30
POOL = 2_000
Statistic = Literal["mean", "difference", "ratio", "noninferiority", "order", "correlation", "share"]
Outcome = Literal["yes", "no", "undecided"]
Values = Mapping[str, Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Check:
    """One requirement on the values of arms.

    Attributes:
        name: What is checked, as shown.
        contrast: Arms, the method under test first. Several others: see `against`.
        statistic: `mean` of the first arm; `difference` first - other; `ratio` of means, first / other; `noninferiority`
            (a difference whose threshold is minus the margin); `order`: share of seeds in which the arms' values ascend as
            listed; `correlation`: Spearman's, of the arms' values with their place in `contrast`, averaged over seeds; `share`
            of seeds in which first - other (or the first alone) is on the right side of `at`.
        threshold: What the statistic is compared with; fixed before the seeds of record are run.
        metric: Name of the metric.
        unit: Unit of the statistic.
        gate: Whether the verdict depends on it; otherwise it is reported only.
        direction: `>=` or `<=`: the side of the threshold that is right. Reaching the threshold exactly counts.
        at: Bound for `share`.
        against: With several other arms, `each`: the check must hold against every one of them, and the result shown is that
            of the hardest; `best`: against the other arm that is best in that seed (largest value for `>=`, least for `<=`),
            which is stricter. A `share` is always of seeds in which all others are beaten.

    Raises:
        ClaimError: For too few arms, an unknown word, or a threshold that is no number or cannot be met.
    """

    name: str
    contrast: tuple[str, ...]
    statistic: Statistic
    threshold: float
    metric: str
    unit: str = ""
    gate: bool = True
    direction: Literal[">=", "<="] = ">="
    at: float = 0.0
    against: Literal["each", "best"] = "each"

    def __post_init__(self) -> None:
        object.__setattr__(self, "contrast", tuple(self.contrast))
        allowed = {"statistic": get_args(Statistic), "direction": (">=", "<="), "against": ("each", "best")}
        for field, words in allowed.items():
            if (given := getattr(self, field)) not in words:
                raise ClaimError(f"check '{self.name}': {field}={given!r} is not allowed; allowed: {', '.join(words)}")
        least = {"mean": 1, "share": 1, "correlation": 3}.get(self.statistic, 2)
        if len(self.contrast) < least or (self.statistic == "mean" and len(self.contrast) > 1):
            given = f"{least} arm{'s or more' if least > 1 else ''}, got {', '.join(self.contrast) or 'none'}"
            raise ClaimError(f"check '{self.name}': {self.statistic} needs {given}")
        low = {"share": 0, "order": 0, "correlation": -1}.get(self.statistic, -math.inf)
        high = math.inf if low == -math.inf else 1
        if not (math.isfinite(self.threshold) and low <= self.threshold <= high):
            raise ClaimError(f"check '{self.name}': threshold={self.threshold}; allowed: a number from {low} to {high}")

    def swapped(self, arm: str, replacement: str) -> Check:
        """Return the same check with an arm replaced by another: how a control is judged.

        Args:
            arm: The arm to replace.
            replacement: The arm in its place.

        Returns:
            The check.
        """
        return replace(self, contrast=tuple(replacement if name == arm else name for name in self.contrast))


@dataclass(frozen=True)
class CheckResult:
    """What came of a check.

    Attributes:
        check: The check.
        estimate: The statistic.
        low: Lower end of the 95 % interval.
        high: Upper end.
        outcome: `yes`: the whole interval is on the right side; `no`: on the wrong side; else `undecided`.
        unit_of_resampling: `seeds`, or `items within seeds`: seeds are resampled and, within each, its test items.
        seeds: Number of seeds.
        per_seed: The statistic's ingredient for each seed (value, difference, ratio, correlation, or 1 where it holds).
        note: Why it is undecided, or which arm was the hardest.
    """

    check: Check
    estimate: float
    low: float
    high: float
    outcome: Outcome
    unit_of_resampling: str
    seeds: int
    per_seed: tuple[float, ...] = ()
    note: str = ""


def evaluate(check: Check, values: Values, *, resamples: int = RESAMPLES, seed: int = 0) -> CheckResult:
    """Evaluate a check.

    An arm compared with itself (a control among its own baselines) has to be beyond the threshold, not on it: nothing is
    better than itself.

    Args:
        check: The check.
        values: Arm to metric to an array of shape (seeds,) or (seeds, items); NaN where a run diverged.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.

    Returns:
        Estimate, interval and outcome.

    Raises:
        ClaimError: If an arm or its metric is missing, shapes differ between arms, or a ratio's lower arm is not positive.
    """
    arrays = _arrays(check, values)
    count = len(arrays[0])
    seeds = [np.flatnonzero(~np.isfinite(_means(array))) for array in arrays]
    bad = [f"{arm} (seed {i})" for arm, lost in zip(check.contrast, seeds, strict=True) for i in lost]
    if bad:
        note = f"no finite value of {check.metric} in {', '.join(bad[:6])}{' and others' if len(bad) > 6 else ''}"
        return CheckResult(check, math.nan, math.nan, math.nan, "undecided", "seeds", count, note=note)
    rng = np.random.default_rng(seed)
    results = [_compare(check, arrays, other, own, resamples, rng) for other, own in _comparisons(check, arrays)]
    order = ("no", "undecided", "yes")
    ends = [result.low if check.direction == ">=" else -result.high for result in results]
    hardest = min(range(len(results)), key=lambda i: (order.index(results[i].outcome), ends[i]))
    note = f"hardest against {check.contrast[1 + hardest]}" if len(results) > 1 else ""
    return replace(results[hardest], note=results[hardest].note or note)


def _arrays(check: Check, values: Values) -> list[np.ndarray]:
    arrays, who = [], f"check '{check.name}'"
    for arm in check.contrast:
        if arm not in values:
            raise ClaimError(f"{who}: there are no values of arm '{arm}'; there are: {', '.join(values)}")
        if check.metric in values[arm]:
            arrays.append(np.asarray(values[arm][check.metric], dtype=float))
        elif values[arm]:
            raise ClaimError(f"{who}: arm '{arm}' has no metric '{check.metric}'; it has: {', '.join(values[arm])}")
        else:  # every seed of the arm diverged
            arrays.append(np.full(next((len(a) for metrics in values.values() for a in metrics.values()), 1), np.nan))
    shapes = ", ".join(f"{arm} {array.shape}" for arm, array in zip(check.contrast, arrays, strict=True))
    if any(array.ndim not in {1, 2} or array.size == 0 for array in arrays):
        raise ClaimError(f"{who}: values must be of shape (seeds,) or (seeds, items), got {shapes}")
    if len({len(array) for array in arrays}) > 1 or len({array.shape[1] for array in arrays if array.ndim == 2}) > 1:
        raise ClaimError(f"{who}: arms are compared seed by seed and item by item, but the shapes differ: {shapes}")
    return arrays if all(a.ndim == 2 and a.shape[1] >= MIN_ITEMS for a in arrays) else [_means(a) for a in arrays]


def _means(array: np.ndarray) -> np.ndarray:
    return np.asarray(array.mean(1) if array.ndim == 2 else array)


def _comparisons(check: Check, arrays: list[np.ndarray]) -> list[tuple[np.ndarray, bool]]:
    # What the first arm is compared with (nothing: zeros), and whether that is the first arm itself.
    if check.statistic in {"order", "correlation"} or len(arrays) == 1:
        return [(np.zeros_like(arrays[0]), False)]
    others, own = arrays[1:], [name == check.contrast[0] for name in check.contrast[1:]]
    if check.against == "each" and check.statistic != "share":
        return list(zip(others, own, strict=True))
    means = np.stack([_means(other) for other in others])
    chosen = means.argmax(0) if check.direction == ">=" else means.argmin(0)
    return [(np.stack(others)[chosen, np.arange(len(chosen))], any(own))]


def _compare(
    check: Check, arrays: list[np.ndarray], other: np.ndarray, own: bool, resamples: int, rng: np.random.Generator
) -> CheckResult:
    first, scale = arrays[0], 1.0
    scores = first - other
    if check.statistic == "order":
        scores = (np.diff([_means(array) for array in arrays], axis=0) > 0).all(0).astype(float)
    elif check.statistic == "correlation":
        scores = _spearman(np.stack([_means(array) for array in arrays]))
    elif check.statistic == "share":
        side = (_means(scores) - check.at) * (1 if check.direction == ">=" else -1)
        scores = (side > 0 if own else side >= 0).astype(float)
    estimate, per_seed = float(_means(scores).mean()), _means(scores)
    if check.statistic == "ratio":
        below = _means(other)
        if (below <= 0).any():
            given = f"got {below.min():g}; use a difference"
            raise ClaimError(f"check '{check.name}': a ratio needs positive values below the line, {given}")
        scale, per_seed = float(below.mean()), _means(first) / below
        estimate = float(_means(first).mean() / scale)
        scores = (first - estimate * other) / scale  # delta method: the ratio's deviation, seed by seed
    if check.statistic in {"order", "share"}:
        interval = stats.binomtest(int(scores.sum()), len(scores)).proportion_ci(LEVEL, method="exact")
        low, high = float(interval.low), float(interval.high)
    elif check.statistic == "correlation":
        low, high = _bounded(scores, len(arrays), resamples, rng)
    else:
        rounding = 1e-12 * float(max(np.abs(_means(first)).max(), np.abs(_means(other)).max())) / scale
        low, high = _of_mean(scores, rounding, resamples, rng)
        low, high = (estimate + low, estimate + high) if check.statistic == "ratio" else (low, high)
    count, outcome, note = len(scores), _outcome(check, low, high, strict=own), ""
    if count < MIN_SEEDS and scores.ndim == 1:
        outcome, few = "undecided", f"{count} seed{'s' if count > 1 else ''} cannot decide"
        note = f"{few}; at least {MIN_SEEDS}, or, where the statistic is of means, {MIN_ITEMS} test items in each"
    elif count == 1:
        note = "one seed: the interval covers its test items, not other seeds"
    elif outcome == "undecided" and check.statistic in {"order", "share"} and estimate in {0.0, 1.0}:
        note = f"all {count} seeds agree, but {count} cannot show {check.threshold:g}; run more"
    unit = "items within seeds" if scores.ndim == 2 else "seeds"
    return CheckResult(check, estimate, low, high, outcome, unit, count, tuple(per_seed.tolist()), note)


def _outcome(check: Check, low: float, high: float, *, strict: bool) -> Outcome:
    sign = 1.0 if check.direction == ">=" else -1.0
    worst, most = sorted((sign * low, sign * high))
    bound = sign * check.threshold
    worst, most = (bound if math.isclose(end, bound, rel_tol=1e-12) else end for end in (worst, most))
    if strict:
        return "yes" if worst > bound else "no" if most <= bound else "undecided"
    return "yes" if worst >= bound else "no" if most < bound else "undecided"


def _of_mean(values: np.ndarray, rounding: float, resamples: int, rng: np.random.Generator) -> tuple[float, float]:
    # Of the mean over seeds, for values of shape (seeds,) or (seeds, items); with items the wider of both, end by end.
    means = _means(values)
    ends = [_wide(means, rounding, resamples, rng)] if len(means) > 1 or values.ndim == 1 else []
    if values.ndim == 2:
        pool = np.stack([
            _resampled_means(row, resamples if len(means) == 1 else min(POOL, resamples), rng) for row in values
        ])
        chosen = rng.integers(len(means), size=(resamples, len(means)))
        draws = pool[chosen, rng.integers(pool.shape[1], size=chosen.shape)].mean(1)
        least, most = np.percentile(draws, TAILS)
        ends.append((float(least), float(most)))
    return min(low for low, _ in ends), max(high for _, high in ends)


def _resampled_means(items: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    rows = max(1, 4_000_000 // len(items))
    sizes = [min(rows, draws - start) for start in range(0, draws, rows)]
    return np.concatenate([items[rng.integers(len(items), size=(size, len(items)))].mean(1) for size in sizes])


def _wide(values: np.ndarray, rounding: float, resamples: int, rng: np.random.Generator) -> tuple[float, float]:
    # Interval of a mean: end by end the wider of the t interval and the bootstrap-t; a point where all values are equal.
    count, mean = len(values), float(values.mean())
    if float(np.ptp(values)) <= rounding:
        return mean, mean
    error = float(values.std(ddof=1)) / math.sqrt(count)
    draws = values[rng.integers(count, size=(resamples, count))]
    errors = draws.std(1, ddof=1) / math.sqrt(count)
    usable = errors > rounding
    least, most = np.percentile((draws.mean(1)[usable] - mean) / errors[usable], TAILS)
    reach = float(stats.t.ppf((1 + LEVEL) / 2, count - 1))
    return mean - max(float(most), reach) * error, mean + max(float(-least), reach) * error


def _spearman(means: np.ndarray) -> np.ndarray:
    # Spearman's correlation of each column with the row number; 0 where a column is constant. `means`: (arms, seeds).
    ranks = stats.rankdata(means, axis=0) - (len(means) + 1) / 2
    place = (np.arange(len(means)) - (len(means) - 1) / 2)[:, None]
    norms = np.sqrt((ranks**2).sum(0) * (place**2).sum())
    return np.asarray(np.divide((ranks * place).sum(0), norms, out=np.zeros(means.shape[1]), where=norms > 0))


def _bounded(scores: np.ndarray, arms: int, resamples: int, rng: np.random.Generator) -> tuple[float, float]:
    # Interval of a mean correlation: at either end with one more seed, a swap of neighbours beyond the worst.
    swap = 12 / (arms * (arms**2 - 1))
    below, above = max(float(scores.min()) - swap, -1.0), min(float(scores.max()) + swap, 1.0)
    low = _wide(np.append(scores, below), 1e-12, resamples, rng)[0]
    high = _wide(np.append(scores, above), 1e-12, resamples, rng)[1]
    return max(min(low, float(scores.mean())), -1.0), min(max(high, float(scores.mean())), 1.0)
