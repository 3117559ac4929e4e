"""Checks: what must hold for a claim to count as reproduced, and the interval that decides it.

Intervals are paired: seeds (and items within seeds) are resampled jointly for all arms. At eight seeds a percentile bootstrap
is too narrow. The interval here is, side by side, the wider of the bootstrap-t and the t interval: each alone stumbles over
skewed noise on one side. `tests/test_verdict.py` simulates how often a check passes when the truth lies at the threshold.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from scipy import stats

from wbench.errors import ClaimError

RESAMPLES = 10_000
LEVEL = 0.95
MIN_SEEDS = 8
Statistic = Literal["mean", "difference", "ratio", "noninferiority", "order", "correlation", "share"]
Outcome = Literal["yes", "no", "undecided"]
Values = dict[str, dict[str, np.ndarray]]


@dataclass(frozen=True)
class Check:
    """One requirement on the values of arms.

    Attributes:
        name: What is checked, as shown.
        contrast: Arms, the method under test first; with several others, the check must hold against the best of them.
        statistic: `mean` of the first arm; `difference` first - other; `ratio` of means, first / other; `noninferiority`
            (a difference whose threshold is minus the margin); `order`: share of seeds in which the arms' values ascend as
            listed; `correlation`: Spearman's, of the arms' values with their position in `contrast`; `share` of seeds in which
            first - other (or the first alone) is on the right side of `at`.
        threshold: What the statistic is compared with; fixed before the seeds of record are run.
        unit: Unit of the statistic.
        gate: Whether the verdict depends on it; otherwise it is reported only.
        direction: `>=` or `<=`.
        metric: Name of the metric.
        at: Bound for `share`.
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

    def __post_init__(self) -> None:
        least = {"mean": 1, "share": 1, "order": 2, "correlation": 3}.get(self.statistic, 2)
        if len(self.contrast) < least:
            raise ClaimError(f"check '{self.name}': {self.statistic} needs at least {least} arms, got {', '.join(self.contrast) or 'none'}")

    def against(self, method: str, replacement: str) -> Check:
        """Return the same check with an arm replaced by another: how a control is judged.

        Args:
            method: The arm to replace.
            replacement: The arm in its place.

        Returns:
            The check.
        """
        arms = tuple(replacement if arm == method else arm for arm in self.contrast)
        return Check(**{**self.__dict__, "contrast": arms})


@dataclass(frozen=True)
class CheckResult:
    """What came of a check.

    Attributes:
        check: The check.
        estimate: The statistic.
        low: Lower end of the 95 % interval.
        high: Upper end.
        outcome: `yes`: the whole interval is on the right side; `no`: on the wrong side; else `undecided`.
        unit_of_resampling: `seeds`, or `seeds and items within seeds`.
        seeds: Number of seeds.
        per_seed: The statistic's ingredient for each seed (difference, value, ...).
        note: Why it is undecided, where there is a reason besides the interval.
    """

    check: Check
    estimate: float
    low: float
    high: float
    outcome: Outcome
    unit_of_resampling: str
    seeds: int
    per_seed: list[float] = field(default_factory=list)
    note: str = ""


def evaluate(check: Check, values: Values, *, resamples: int = RESAMPLES, seed: int = 0) -> CheckResult:
    """Evaluate a check.

    Args:
        check: The check.
        values: Arm to metric to (seeds,) or (seeds, items).
        resamples: Of the bootstrap.
        seed: Of the bootstrap.

    Returns:
        Estimate, interval and outcome.

    Raises:
        ClaimError: If an arm or its metric is missing.
    """
    arrays = [_array(check, values, arm) for arm in check.contrast]
    with_items = all(array.ndim == 2 for array in arrays)
    unit = "seeds and items within seeds" if with_items else "seeds"
    count = len(arrays[0])
    bad = [f"{arm} (seed {i})" for arm, a in zip(check.contrast, arrays, strict=True) for i in range(count) if not np.isfinite(a[i]).all()]
    if bad:
        note = f"no finite value of {check.metric} in {', '.join(bad[:6])}"
        return CheckResult(check, np.nan, np.nan, np.nan, "undecided", unit, count, note=note)
    rng = np.random.default_rng(seed)
    means = np.stack([array.mean(1) if array.ndim == 2 else array for array in arrays])
    estimate, low, high, per_seed = _interval(check, means, arrays if with_items else None, resamples, rng)
    outcome = _outcome(check, low, high)
    note = ""
    if count < MIN_SEEDS and not with_items:
        outcome, note = "undecided", f"{count} seeds are too few to decide; at least {MIN_SEEDS}, or items to resample within seeds"
    return CheckResult(check, estimate, low, high, outcome, unit, count, per_seed, note)


def _array(check: Check, values: Values, arm: str) -> np.ndarray:
    if arm not in values:
        raise ClaimError(f"check '{check.name}': there are no values of arm '{arm}'; there are: {', '.join(values)}")
    if check.metric not in values[arm]:
        if values[arm]:
            raise ClaimError(f"check '{check.name}': arm '{arm}' has no metric '{check.metric}'; it has: {', '.join(values[arm])}")
        some = next((len(a) for metrics in values.values() for a in metrics.values()), 1)
        return np.full(some, np.nan)  # every seed of the arm diverged
    return np.asarray(values[arm][check.metric], dtype=float)


def _outcome(check: Check, low: float, high: float) -> Outcome:
    if check.direction == ">=":
        return "yes" if low >= check.threshold else "no" if high < check.threshold else "undecided"
    return "yes" if high <= check.threshold else "no" if low > check.threshold else "undecided"


def _interval(
    check: Check, means: np.ndarray, items: list[np.ndarray] | None, resamples: int, rng: np.random.Generator
) -> tuple[float, float, float, list[float]]:
    """Estimate, interval, and each seed's ingredient. `means`: (arms, seeds)."""
    if check.statistic in {"share", "order"}:
        return _share(check, means)
    if check.statistic == "correlation":
        scores = np.array([stats.spearmanr(np.arange(len(means)), column).statistic for column in means.T])
        return (*_of_mean(np.nan_to_num(scores), resamples, rng), scores.tolist())
    first, others = means[0], means[1:]
    if check.statistic == "mean":
        return (*_of_mean(first, resamples, rng, _item_noise(items, [1.0])), first.tolist())
    if check.statistic == "ratio":
        return _ratio(check, first, _hardest(check, others), resamples, rng)
    hardest = _hardest(check, others)
    weights = [1.0] + [-1.0 if np.array_equal(other, hardest) else 0.0 for other in others]
    difference = first - hardest
    return (*_of_mean(difference, resamples, rng, _item_noise(items, weights)), difference.tolist())


def _hardest(check: Check, others: np.ndarray) -> np.ndarray:
    """The other arm that is hardest to beat on the mean over seeds."""
    order = others.mean(1)
    return np.asarray(others[int(order.argmax() if check.direction == ">=" else order.argmin())])


def _item_noise(items: list[np.ndarray] | None, weights: list[float]) -> np.ndarray | None:
    """Per-item values of a weighted sum of arms, (seeds, items)."""
    if items is None:
        return None
    return np.asarray(sum(weight * array for weight, array in zip(weights, items, strict=True)))


def _of_mean(
    values: np.ndarray, resamples: int, rng: np.random.Generator, items: np.ndarray | None = None
) -> tuple[float, float, float]:
    """Mean over seeds with a bootstrap-t interval; with items, a percentile bootstrap over seeds and items within them."""
    count, estimate = len(values), float(values.mean())
    if items is not None and items.shape[1] > 1:
        draws = np.empty(resamples)
        for start in range(0, resamples, 500):
            size = min(500, resamples - start)
            seeds = rng.integers(count, size=(size, count))
            total = np.zeros(size)
            for column in range(count):
                # the mean of n draws from a seed's items is normal to good accuracy for n in the hundreds
                chosen = seeds[:, column]
                spread = items.std(1)[chosen] / np.sqrt(items.shape[1])
                total += values[chosen] + spread * rng.standard_normal(size)
            draws[start : start + size] = total / count
        tail = 100 * (1 - LEVEL) / 2
        low, high = np.percentile(draws, [tail, 100 - tail])
        if count == 1:
            return estimate, float(low), float(high)
        between = _t_interval(values)
        return estimate, min(float(low), between[0]), max(float(high), between[1])
    if count < 2 or float(np.ptp(values)) <= 1e-12 * max(1.0, abs(estimate)):
        return estimate, estimate, estimate
    return estimate, *_bootstrap_t(values, resamples, rng)


def _t_interval(values: np.ndarray) -> tuple[float, float]:
    error = values.std(ddof=1) / np.sqrt(len(values))
    reach = float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 1) * error)
    return float(values.mean()) - reach, float(values.mean()) + reach


def _bootstrap_t(values: np.ndarray, resamples: int, rng: np.random.Generator) -> tuple[float, float]:
    """The wider, side by side, of the bootstrap-t and the t interval: skewed noise is what each alone stumbles over."""
    count, mean = len(values), values.mean()
    draws = values[rng.integers(count, size=(resamples, count))]
    errors = draws.std(1, ddof=1) / np.sqrt(count)
    usable = errors > 1e-12 * max(1.0, abs(float(mean)))
    pivots = (draws.mean(1)[usable] - mean) / errors[usable]
    tail = 100 * (1 - LEVEL) / 2
    low_pivot, high_pivot = np.percentile(pivots, [tail, 100 - tail])
    error = values.std(ddof=1) / np.sqrt(count)
    plain = _t_interval(values)
    return min(float(mean - high_pivot * error), plain[0]), max(float(mean - low_pivot * error), plain[1])


def _ratio(
    check: Check, first: np.ndarray, other: np.ndarray, resamples: int, rng: np.random.Generator
) -> tuple[float, float, float, list[float]]:
    """Ratio of means; the interval is that of the mean of first - ratio * other, inverted (Fieller), by the t pivot."""
    if (other <= 0).any():
        raise ClaimError(f"check '{check.name}': a ratio needs positive values below the line, got {other.min():g}")
    estimate = float(first.mean() / other.mean())
    per_seed = (first / other).tolist()
    if len(first) < 2:
        return estimate, estimate, estimate, per_seed
    spread = max(float(np.ptp(first - estimate * other)), 0.0)
    if spread <= 1e-12 * float(np.abs(first).max() + 1e-300):
        return estimate, estimate, estimate, per_seed
    residual = (first - estimate * other) / other.mean()
    _, low, high = _of_mean(residual, resamples, rng)
    return estimate, estimate + low, estimate + high, per_seed


def _share(check: Check, means: np.ndarray) -> tuple[float, float, float, list[float]]:
    """Share of seeds for which a relation holds, with Clopper and Pearson's interval."""
    if check.statistic == "order":
        holds = (np.diff(means, axis=0) > 0).all(0)
    else:
        value = means[0] if len(means) == 1 else means[0] - (means[1:].max(0) if check.direction == ">=" else means[1:].min(0))
        holds = value >= check.at if check.direction == ">=" else value <= check.at
    hits, count = int(holds.sum()), len(holds)
    tail = (1 - LEVEL) / 2
    low = float(stats.beta.ppf(tail, hits, count - hits + 1)) if hits else 0.0
    high = float(stats.beta.ppf(1 - tail, hits + 1, count - hits)) if hits < count else 1.0
    return hits / count, low, high, holds.astype(float).tolist()


def to_dict(result: CheckResult) -> dict[str, Any]:
    """Return a result as JSON values; NaN becomes `None`.

    Args:
        result: The result.

    Returns:
        A dictionary that `from_dict` reads.
    """
    plain = {key: value for key, value in result.__dict__.items() if key != "check"}
    number = {key: None if isinstance(value, float) and np.isnan(value) else value for key, value in plain.items()}
    return {"check": {**result.check.__dict__, "contrast": list(result.check.contrast)}, **number}


def from_dict(record: dict[str, Any]) -> CheckResult:
    """Read a result.

    Args:
        record: From `to_dict`.

    Returns:
        The result.
    """
    fields = {key: np.nan if value is None and key in {"estimate", "low", "high"} else value for key, value in record.items()}
    check = fields.pop("check")
    return CheckResult(Check(**{**check, "contrast": tuple(check["contrast"])}), **fields)
