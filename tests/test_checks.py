"""Checks: how often they err at the threshold, closed forms, and what cannot be decided."""

import dataclasses
import math

import numpy as np
import pytest
from check_values import arms, check
from scipy import stats

from wbench.claims.checks import MIN_SEEDS, evaluate
from wbench.errors import ClaimError

LIMIT = 0.07
TRIALS = 300
NOISE = {
    "normal": lambda rng, size: rng.normal(size=size),
    "t3": lambda rng, size: rng.standard_t(3, size=size),
    "long tail below": lambda rng, size: math.exp(0.125) - rng.lognormal(0.0, 0.5, size=size),
    "long tail above": lambda rng, size: rng.lognormal(0.0, 0.5, size=size) - math.exp(0.125),
}


def passes(made, draw, trials=TRIALS):
    """Share of draws in which a check passes."""
    return np.mean([evaluate(made, arms(**draw()), resamples=400, seed=i).outcome == "yes" for i in range(trials)])


# --- how often a check passes although the truth lies at the threshold -------------------------------------------------


@pytest.mark.parametrize("noise", NOISE)
@pytest.mark.parametrize("direction", [">=", "<="])
def test_a_difference_at_the_threshold_seldom_passes_at_eight_seeds(noise, direction):
    rng = np.random.default_rng(1)
    made = check("difference", 0.5, direction=direction)
    assert passes(made, lambda: {"a": 3.5 + NOISE[noise](rng, 8), "b": np.full(8, 3.0)}) <= LIMIT


@pytest.mark.parametrize("direction", [">=", "<="])
@pytest.mark.parametrize("deviation", [0.2, 0.5])
def test_a_ratio_at_the_threshold_seldom_passes_at_eight_seeds(direction, deviation):
    rng = np.random.default_rng(2)

    def draw():
        a, b = rng.lognormal(-(deviation**2) / 2, deviation, size=(2, 8))
        return {"a": 0.5 * a, "b": b}

    assert passes(check("ratio", 0.5, direction=direction), draw) <= LIMIT


def spearman_slope(arm_count, truth, noise):
    """Slope of the arms' trend at which Spearman's correlation is `truth` on average."""
    low, high = 0.0, 20.0
    position = np.arange(arm_count)
    for _ in range(20):
        slope = (low + high) / 2
        draws = slope * position + NOISE[noise](np.random.default_rng(3), (5_000, arm_count))
        ranks = stats.rankdata(draws, axis=1) - 1
        mean = (1 - 6 * ((ranks - position) ** 2).sum(1) / (arm_count * (arm_count**2 - 1))).mean()
        low, high = (slope, high) if mean < truth else (low, slope)
    return low


@pytest.mark.parametrize("noise", ["normal", "t3", "long tail above"])
@pytest.mark.parametrize(("arm_count", "truth"), [(3, 0.5), (3, 0.9), (4, 0.9), (5, 0.8), (8, 0.95)])
def test_a_correlation_at_the_threshold_seldom_passes_at_eight_seeds(noise, arm_count, truth):
    rng = np.random.default_rng(4)
    slope = spearman_slope(arm_count, truth, noise)
    names = [f"arm{i}" for i in range(arm_count)]
    made = check("correlation", truth, tuple(names))

    def draw():
        values = slope * np.arange(arm_count)[:, None] + NOISE[noise](rng, (arm_count, 8))
        return dict(zip(names, values, strict=True))

    assert passes(made, draw, 200) <= LIMIT


@pytest.mark.parametrize("truth", [0.3, 0.5, 0.6])
def test_a_share_at_the_threshold_seldom_passes_at_eight_seeds(truth):
    # whether a seed holds is a coin with that truth, whatever the noise: the chance of a pass is a sum of binomial terms
    made = check("share", truth, ("a",))
    outcomes = [evaluate(made, arms(a=np.r_[np.ones(hits), -np.ones(8 - hits)])).outcome == "yes" for hits in range(9)]
    assert stats.binom.pmf(np.arange(9), 8, truth) @ outcomes <= 0.025


@pytest.mark.parametrize("seeds", [2, 8])
def test_items_within_seeds_at_the_threshold_seldom_pass(seeds):
    rng = np.random.default_rng(5)

    def draw():
        rates = np.clip(0.7 + 0.05 * rng.normal(size=(2, seeds, 1)), 0, 1)
        a, b = rng.random((2, seeds, 40)) < rates
        return {"a": a, "b": b}

    assert passes(check("difference", 0.0), draw, 200) <= LIMIT


def test_a_check_against_several_arms_seldom_passes_when_one_of_them_is_as_good():
    rng = np.random.default_rng(6)

    def draw():  # the steady weak arm often has the better sample mean of the two
        return {
            "a": 1 + 0.01 * rng.normal(size=8),
            "weak": 0.5 + 0.01 * rng.normal(size=8),
            "equal": 1 + 2 * rng.normal(size=8),
        }

    assert passes(check("difference", 0.0, ("a", "weak", "equal")), draw) <= LIMIT


@pytest.mark.parametrize("noise", NOISE)
def test_a_large_effect_is_found_at_eight_seeds(noise):
    rng = np.random.default_rng(7)
    draw = lambda: {"a": 5.0 + NOISE[noise](rng, 8), "b": np.zeros(8)}  # noqa: E731
    assert passes(check("difference", 0.0), draw, 200) >= 0.9
    steep = [f"arm{i}" for i in range(5)]
    trend = lambda: dict(zip(steep, 5 * np.arange(5)[:, None] + NOISE[noise](rng, (5, 8)), strict=True))  # noqa: E731
    assert passes(check("correlation", 0.7, tuple(steep)), trend, 100) >= 0.9
    assert passes(check("order", 0.5, ("b", "a")), draw, 100) >= 0.9


# --- intervals ----------------------------------------------------------------------------------------------------------


def test_the_interval_holds_the_t_interval_and_widens_only_on_the_long_tail():
    rng = np.random.default_rng(8)
    a, b = rng.normal(size=(2, 12))
    result = evaluate(check("difference", 0.0), arms(a=a, b=b))
    t = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert result.estimate == pytest.approx((a - b).mean())
    assert result.low <= t.low + 1e-12
    assert result.high >= t.high - 1e-12
    assert result.high - result.low < 1.5 * (t.high - t.low)
    skewed = rng.lognormal(0, 1, size=30)
    result = evaluate(check("mean", 0.0, ("a",)), arms(a=skewed))
    t = stats.ttest_1samp(skewed, 0).confidence_interval(0.95)
    assert result.high > t.high * 1.05
    assert result.low == pytest.approx(t.low, rel=1e-6)


@pytest.mark.parametrize(("hits", "count"), [(8, 8), (5, 8), (0, 8), (17, 20)])
def test_a_share_has_the_interval_of_clopper_and_pearson(hits, count):
    result = evaluate(
        check("share", 0.5, at=2.0), arms(a=np.r_[np.full(hits, 3.0), np.zeros(count - hits)], b=np.zeros(count))
    )
    expected = stats.binomtest(hits, count).proportion_ci(0.95, method="exact")
    assert (result.estimate, result.low, result.high) == pytest.approx((hits / count, expected.low, expected.high))
    assert sum(result.per_seed) == hits


def test_items_are_resampled_within_each_seed():
    rng = np.random.default_rng(9)
    items = rng.normal(1.0, 2.0, size=(1, 400))
    result = evaluate(check("mean", 0.5, ("a",)), arms(a=items))
    error = items.std() / math.sqrt(400)
    assert result.low == pytest.approx(items.mean() - 1.96 * error, abs=0.1 * error)
    assert result.high == pytest.approx(items.mean() + 1.96 * error, abs=0.1 * error)
    assert (result.outcome, result.unit_of_resampling, result.seeds) == ("yes", "items within seeds", 1)
    assert "one seed" in result.note
    # items that differ while seeds agree: the seeds alone would give a point
    twins = np.stack([items[0], items[0][::-1], items[0]])
    several = evaluate(check("mean", 0.5, ("a",)), arms(a=twins))
    assert several.high - several.low == pytest.approx(2 * 1.96 * error / math.sqrt(3), rel=0.1)


def test_paired_items_cancel_what_arms_share():
    rng = np.random.default_rng(10)
    shared = rng.normal(scale=10.0, size=(2, 200))
    result = evaluate(check("difference", 0.0), arms(a=shared + 0.1, b=shared))
    assert result.low == pytest.approx(0.1)
    assert result.high == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("statistic", "a", "b", "expected"),
    [("difference", 0.3, 0.1, 0.2), ("ratio", 0.3, 0.1, 3.0), ("noninferiority", 0.3, 0.3, 0.0)],
)
def test_equal_values_give_a_point(statistic, a, b, expected):
    for values in (arms(a=[a] * 8, b=[b] * 8), arms(a=np.full((8, 40), a), b=np.full((8, 40), b))):
        for threshold, outcome in ((expected - 0.01, "yes"), (expected, "yes"), (expected + 0.01, "no")):
            result = evaluate(check(statistic, threshold), values)
            assert (result.estimate, result.low, result.high) == pytest.approx((expected,) * 3, abs=1e-12)
            assert result.outcome == outcome


def test_a_ratio_follows_the_scale_of_its_arms_and_not_their_unit():
    rng = np.random.default_rng(11)
    a, b = rng.lognormal(size=(2, 8))
    results = [evaluate(check("ratio", 1.0), arms(a=a * unit, b=b * unit)) for unit in (1.0, 1e-9, 1e9)]
    for result in results:
        assert result.estimate == pytest.approx(a.mean() / b.mean())
        assert (result.low, result.high) == pytest.approx((results[0].low, results[0].high))
    with pytest.raises(ClaimError, match="positive"):
        evaluate(check("ratio", 1.0), arms(a=a, b=b - b))


# --- closed forms ---------------------------------------------------------------------------------------------------------


def test_order_counts_the_seeds_whose_arms_ascend():
    values = arms(a=[1, 1, 3, 1, 1, 1, 1, 1], b=[2, 2, 2, 1, 2, 2, 2, 2], c=[3] * 8)
    result = evaluate(check("order", 0.2, ("a", "b", "c")), values)
    assert result.per_seed == (1, 1, 0, 0, 1, 1, 1, 1)
    assert (result.estimate, result.outcome) == (0.75, "yes")
    assert evaluate(check("order", 0.2, ("c", "b", "a")), values).estimate == 0


def test_correlation_is_spearman_of_the_arms_in_every_seed():
    rng = np.random.default_rng(12)
    table = rng.normal(size=(5, 9)).round(0)  # with ties
    names = tuple("abcde")
    result = evaluate(check("correlation", 0.0, names), arms(**dict(zip(names, table, strict=True))))
    expected = [stats.spearmanr(np.arange(5), column).statistic for column in table.T]
    assert result.per_seed == pytest.approx(expected)
    assert result.estimate == pytest.approx(np.mean(expected))
    constant = evaluate(check("correlation", 0.0, names), arms(**dict.fromkeys(names, np.ones(9))))
    assert constant.per_seed == (0.0,) * 9


def test_a_perfect_correlation_at_eight_seeds_is_no_proof_of_a_perfect_truth():
    values = arms(a=np.arange(8) + 0.0, b=np.arange(8) + 1.0, c=np.arange(8) + 2.0)
    made = check("correlation", 0.95, ("a", "b", "c"))
    assert evaluate(made, values).outcome == "undecided"
    assert evaluate(dataclasses.replace(made, threshold=0.7), values).outcome == "yes"


def test_the_hardest_of_several_arms_decides():
    rng = np.random.default_rng(13)
    noise = 0.01 * rng.normal(size=(3, 8))
    values = arms(a=1.0 + noise[0], b=0.5 + noise[1], c=0.9 + noise[2])
    result = evaluate(check("difference", 0.2, ("a", "b", "c")), values)
    assert (result.outcome, result.note) == ("no", "hardest against c")
    assert result.estimate == pytest.approx(values["a"]["m"].mean() - values["c"]["m"].mean())
    lower_is_better = evaluate(check("difference", 0.2, ("a", "b", "c"), direction="<="), values)
    assert (lower_is_better.outcome, lower_is_better.note) == ("no", "hardest against b")


@pytest.mark.parametrize(("direction", "best"), [(">=", np.maximum), ("<=", np.minimum)])
def test_against_best_takes_the_best_arm_of_every_seed(direction, best):
    rng = np.random.default_rng(14)
    a, b, c = rng.normal(size=(3, 8))
    made = check("difference", 0.0, ("a", "b", "c"), direction=direction, against="best")
    assert evaluate(made, arms(a=a, b=b, c=c)).per_seed == pytest.approx(tuple(a - best(b, c)))
    share = evaluate(check("share", 0.5, ("a", "b", "c"), direction=direction), arms(a=a, b=b, c=c))
    holds = (a >= b) & (a >= c) if direction == ">=" else (a <= b) & (a <= c)
    assert share.per_seed == tuple(holds.astype(float))


def test_noninferiority_tolerates_its_margin_and_no_more():
    rng = np.random.default_rng(15)
    noise = 0.001 * rng.normal(size=8)
    for drop, outcome in ((0.005, "yes"), (0.02, "no")):
        assert (
            evaluate(check("noninferiority", -0.01), arms(a=0.9 - drop + noise, b=np.full(8, 0.9))).outcome == outcome
        )


# --- what cannot be decided -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statistic", ["mean", "difference", "ratio", "noninferiority", "order", "correlation", "share"]
)
@pytest.mark.parametrize("seeds", [1, 3, MIN_SEEDS - 1])
def test_few_seeds_without_items_decide_nothing(statistic, seeds):
    contrast = {"mean": ("a",), "correlation": ("b", "c", "a")}.get(statistic, ("b", "a"))
    values = arms(b=np.full(seeds, 1.0), c=np.full(seeds, 2.0), a=np.full(seeds, 100.0))
    result = evaluate(
        check(statistic, -0.5 if statistic != "share" else 0.0, contrast)
        if statistic != "order"
        else check(statistic, 0.0, contrast),
        values,
    )
    assert result.outcome == "undecided"
    assert f"{seeds} seed" in result.note
    assert str(MIN_SEEDS) in result.note


def test_items_do_not_help_a_statistic_that_only_counts_seeds():
    rng = np.random.default_rng(16)
    values = arms(a=rng.normal(size=(3, 50)), b=rng.normal(10, 1, size=(3, 50)), c=rng.normal(20, 1, size=(3, 50)))
    for statistic in ("correlation", "order"):
        result = evaluate(check(statistic, 0.0, ("a", "b", "c")), values)
        assert (result.outcome, result.unit_of_resampling) == ("undecided", "seeds")
    few_items = {arm: {"m": metrics["m"][:, :5]} for arm, metrics in values.items()}
    assert evaluate(check("difference", 0.0, ("b", "a")), few_items).outcome == "undecided"


def test_a_diverged_seed_leaves_the_check_open_and_is_named():
    values = arms(a=[1, 1, np.nan, 1, 1, 1, 1, 1], b=np.zeros(8))
    result = evaluate(check("difference", 0.5), values)
    assert result.outcome == "undecided"
    assert "a (seed 2)" in result.note
    assert math.isnan(result.estimate)
    everything = {"a": {}, "b": {"m": np.zeros(8)}}
    assert "a (seed 7)" not in evaluate(check("difference", 0.5), everything).note
    assert "and others" in evaluate(check("difference", 0.5), everything).note


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"a": {"m": np.zeros(8)}}, "no values of arm 'b'"),
        ({"a": {"m": np.zeros(8)}, "b": {"n": np.zeros(8)}}, "has no metric 'm'; it has: n"),
        (arms(a=np.zeros(8), b=np.zeros(7)), "shapes differ"),
        (arms(a=np.zeros((8, 40)), b=np.zeros((8, 41))), "shapes differ"),
        (arms(a=np.zeros((2, 3, 4)), b=np.zeros((2, 3, 4))), "must be of shape"),
    ],
)
def test_values_that_cannot_be_compared_are_refused(values, words):
    with pytest.raises(ClaimError, match=words):
        evaluate(check("difference", 0.0), values)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"statistic": "median", "threshold": 0.0}, "statistic='median'.*mean, difference"),
        ({"statistic": "difference", "threshold": math.nan}, "threshold=nan"),
        ({"statistic": "share", "threshold": 1.5}, "threshold=1.5.*0 to 1"),
        ({"statistic": "correlation", "threshold": 0.5}, "3 arms or more"),
        ({"statistic": "mean", "threshold": 0.5}, "needs 1 arm, got a, b"),
        ({"statistic": "difference", "threshold": 0.0, "direction": ">"}, "direction='>'"),
        ({"statistic": "difference", "threshold": 0.0, "against": "worst"}, "against='worst'"),
    ],
)
def test_ill_defined_checks_are_refused_by_name(fields, words):
    with pytest.raises(ClaimError, match=f"it holds.*{words}"):
        check(**fields)
