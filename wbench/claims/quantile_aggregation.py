"""Quantile aggregation: do weights that depend on the input predict better than any one model and than fixed weights?

Pilot on seeds 100 to 103, thresholds as planned before it (0.97 of the best base model, 0.99 of the best fixed weights, half of
the rows that cross). A first prototype had an under-trained network among its bases (loss 0.330, behind the forest's 0.268) and
reached 0.938 and 0.950. Here the network is trained until it is the best base (0.253, forest 0.274), which leaves less to gain:
0.958 and 0.987 on the pilot, so that the second check was expected to stay open. Penalty weight 10 and margin scale 0.1, the
largest of the paper's search grid, left 0.42 of the rows that cross without penalty; weight 1 and scale 0.01 left 0.77. Rates
(0.005 local, 0.1 global, where 0.03 and 0.01 end at the same loss) were chosen there too. With 200 training rows local weights
reached 0.94 of the global ones, against the expectation that they overfit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from wbench.claims.checks import Check
from wbench.claims.claim import Claim, Measured, final_metrics
from wbench.methods import QuantileAggregation, QuantileAverage, ShuffledAggregation
from wbench.methods.estimator.quantile_aggregation import Base
from wbench.recipe import Recipe
from wbench.study import Arm
from wbench.tasks import Quantiles

if TYPE_CHECKING:
    from wbench.runs import Run

_BASES: tuple[Base, ...] = ("linear", "neighbors", "forest", "network", "gaussian")
_SAME: tuple[Base, ...] = ("forest", "forest", "forest")
_RECIPE = Recipe(optimizer="adam", lr=5e-3, weight_decay=1e-7, batch_size=64, steps=3000, eval_every=25)
_STRICT: dict[str, Any] = {"margin_weight": 10.0, "margin_scale": 0.1}


def measure(arm: str, run: Run, runs: Mapping[str, Run]) -> Measured:
    """Return the test metrics, and the share of rows that cross before they are put in order.

    Args:
        arm: The arm's name.
        run: Its run.
        runs: The runs of the seed.

    Returns:
        Metric to value.
    """
    values = dict(final_metrics(arm, run, runs))
    name = next((probe for probe in run.probes if probe.startswith("method.")), None)
    if name is not None:
        frame = run.probe(name)
        values["crossing_raw"] = float(
            frame.loc[(frame["part"] == "crossing") & (frame["stage"] == "raw"), "value"].iloc[0]
        )
    return values


def _weighted(method: QuantileAggregation, stack: str = "mean") -> Arm:
    recipe = {} if method.local else {"lr": 0.1}
    return Arm((method,), references={"stack": stack}, recipe=recipe)


claim = Claim(
    id="quantile_aggregation",
    statement="Quantile models averaged with weights that depend on model, level and input predict better than each of them, than "
    "their mean or median, and than fixed weights; their quantiles do not cross.",
    paper_result="arXiv:2103.00083: better than the individual models and simple averages over 34 data sets of UCI and OpenML.",
    task=Quantiles(),
    recipes={"smoke": _RECIPE.replace(steps=50), "cpu": _RECIPE, "gpu": _RECIPE.replace(steps=10_000)},
    arms={
        "mean": Arm((QuantileAverage(n_folds=5),)),
        "median": Arm((QuantileAverage(rule="median"),), references={"stack": "mean"}),
        **{base: Arm((QuantileAverage(models=(base,)),), references={"stack": "mean"}) for base in _BASES},
        "global_coarse": _weighted(QuantileAggregation(local=False, resolution="coarse", **_STRICT)),
        "global_medium": _weighted(QuantileAggregation(local=False, resolution="medium", **_STRICT)),
        "global_fine": _weighted(QuantileAggregation(local=False, resolution="fine", **_STRICT)),
        "local_coarse": _weighted(QuantileAggregation(resolution="coarse", **_STRICT)),
        "local_medium": _weighted(QuantileAggregation(**_STRICT)),
        "no_penalty": _weighted(QuantileAggregation(margin_weight=0.0)),
        "weak_penalty": _weighted(QuantileAggregation()),
        "shuffled": _weighted(ShuffledAggregation(**_STRICT)),
        "same_mean": Arm((QuantileAverage(models=_SAME, n_folds=5),)),
        "same_local": _weighted(QuantileAggregation(models=_SAME, **_STRICT), "same_mean"),
    },
    method="local_medium",
    control="shuffled",
    checks=(
        Check("loss against the best single model", ("local_medium", *_BASES), "ratio", 0.97, "loss", "of its loss", direction="<=", against="best"),
        Check(
            "loss against the best fixed weights", ("local_medium", "global_coarse", "global_medium", "global_fine"), "ratio", 0.99,
            "loss", "of its loss", direction="<=", against="best",
        ),
        Check("rows that cross, as predicted", ("local_medium",), "mean", 0.0, "crossing", "(share)", direction="<="),
        Check("rows that cross before sorting, against no penalty", ("local_medium", "no_penalty"), "ratio", 0.5, "crossing_raw", "of theirs", direction="<="),
        Check("loss against the mean and the median", ("local_medium", "mean", "median"), "ratio", 0.97, "loss", "of its loss", gate=False, direction="<=", against="best"),
        Check("one weight a model: loss against the best single model", ("local_coarse", *_BASES), "ratio", 0.97, "loss", "of its loss", gate=False, direction="<=", against="best"),
        Check("penalty weight 1: rows that cross, against no penalty", ("weak_penalty", "no_penalty"), "ratio", 0.5, "crossing_raw", "of theirs", gate=False, direction="<="),
        Check("what the penalty costs in loss", ("local_medium", "no_penalty"), "ratio", 1.01, "loss", "of its loss", gate=False, direction="<="),
        Check("exchangeable models: the mean is as good", ("same_local", "same_mean"), "ratio", 0.99, "loss", "of its loss", gate=False),
    ),
    measure=measure,
    reads="One generated problem, made so that no base model is right everywhere; what is shown is that weights find out where "
    "each is. It says nothing of the paper's data sets. All arms of a seed share the fitted base models. The last row is "
    "where local weights are not expected to help.",
)  # fmt: skip
