"""OPCM: does merging by projection and rescaling beat averaging, whatever the order in which models arrive?"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import TYPE_CHECKING

from wbench.claims.checks import Check
from wbench.claims.claim import Claim, Measured
from wbench.method import Method
from wbench.methods import OPCM, TIES, ScalingOnly, TaskArithmetic, WeightAverage
from wbench.recipe import Recipe
from wbench.study import Arm
from wbench.tasks import DigitDomains

if TYPE_CHECKING:
    from wbench.runs import Run

DOMAINS = 8
SHAPE = (96, 96, 96)
_BASE = {"lr": 2e-3, "batch_size": 256, "steps": 177}  # five epochs of the digits and six other domains
_RECIPE = Recipe(optimizer="adam", lr=1e-3, batch_size=128, steps=204)  # twenty epochs of one domain
_ORDERS = (1, 2, 3)


def _arms(strength: float, mark: str, merged: Mapping[str, Method]) -> dict[str, Arm]:
    # base, a fine-tune per domain with the head frozen, and what is made of them
    def task(**options: object) -> DigitDomains:
        return DigitDomains(strength=strength, hidden=SHAPE, **options)

    arms = {
        f"base{mark}": Arm(task=task(domain="identity", extra_domains=6), recipe=_BASE, at_smoke={"steps": 40}),
    }
    for index in range(DOMAINS):
        arms[f"domain{index}{mark}"] = Arm(
            task=task(domain="rotated_pixels", index=index), start=f"base{mark}", trainable=("*", "!head")
        )
    whole = task(domain="rotated_pixels", domains=DOMAINS)
    members = {f"domain{index}": f"domain{index}{mark}" for index in range(DOMAINS)}
    for name, method in merged.items():
        arms[f"{name}{mark}"] = Arm((method,), task=whole, members=members, references={"base": f"base{mark}"})
    return arms


def measure(arm: str, run: Run, runs: Mapping[str, Run]) -> Measured:
    """Return the test accuracy in points; of a merged model the mean over the eight domains, with what its order does to it.

    Args:
        arm: The arm's name.
        run: Its run.
        runs: The runs of the seed.

    Returns:
        `accuracy`; of merged models also `individual` (of the fine-tunes, each on its own domain), `spread` (standard deviation
        over the orders that were run) and `divisor` (lambda after the last).
    """
    values = {"accuracy": 100 * run.final("accuracy")}
    if not run.spec.get("members"):
        return values
    mark = "_far" if arm.endswith("_far") else ""
    own = [100 * runs[f"domain{index}{mark}"].final("accuracy") for index in range(DOMAINS)]
    kin = arm.removesuffix("_far")
    kin = kin if f"{kin}_order2" in runs else "opcm" if kin.startswith("opcm_order") else kin
    orders = [runs[name] for name in (kin, *(f"{kin}_order{n}" for n in _ORDERS[1:])) if name in runs and not mark]
    values["individual"] = statistics.fmean(own)
    values["spread"] = statistics.stdev(100 * one.final("accuracy") for one in orders) if len(orders) > 1 else 0.0
    values["divisor"] = float(run.probe(run.methods[0])["divisor"].iloc[-1])
    return values


_MERGED: dict[str, Method] = {
    "opcm": OPCM(seed=_ORDERS[0]),
    "projection_only": OPCM(seed=_ORDERS[0], norm_rule=False),
    "weight_average": WeightAverage(),
    "task_arithmetic": TaskArithmetic(scaling=0.3),
    "ties": TIES(),
    "scaling_only": ScalingOnly(),
    "nothing": TaskArithmetic(scaling=0.0),
}

claim = Claim(
    id="opcm",
    statement="Models that arrive one at a time are merged better by adding what is orthogonal to the merged model and rescaling to the "
    "length of one model's change than by averaging weights, and the order of arrival matters little.",
    paper_result="arXiv:2501.09522: CLIP-ViT on 8, 14 and 20 image tasks, 5 to 8 points of average accuracy above continual weight "
    "averaging, task arithmetic and TIES; stable across orders.",
    task=DigitDomains(domain="rotated_pixels", hidden=SHAPE, domains=DOMAINS),
    recipes={"smoke": _RECIPE.replace(steps=20), "cpu": _RECIPE, "gpu": _RECIPE.replace(steps=1600)},
    arms={
        **_arms(1.5, "", {**_MERGED, **{f"opcm_order{order}": OPCM(seed=order) for order in _ORDERS[1:]}}),
        **_arms(3.0, "_far", _MERGED),
    },
    method="opcm",
    control="projection_only",
    checks=(
        Check("accuracy over weight averaging", ("opcm", "weight_average"), "difference", 2.0, "accuracy", "points"),
        Check("standard deviation over three orders", ("opcm",), "mean", 1.5, "spread", "points", direction="<="),
        Check("over scaling without projection", ("opcm", "scaling_only"), "difference", 0.5, "accuracy", "points", gate=False),
        Check("over task arithmetic at 0.3", ("opcm", "task_arithmetic"), "difference", 0.5, "accuracy", "points", gate=False),
        Check("over TIES", ("opcm", "ties"), "difference", 0.5, "accuracy", "points", gate=False),
        Check("over the base", ("opcm", "nothing"), "difference", 2.0, "accuracy", "points", gate=False),
        Check("farther domains: over weight averaging", ("opcm_far", "weight_average_far"), "difference", 2.0, "accuracy", "points", gate=False),
        Check("farther domains: over scaling without projection", ("opcm_far", "scaling_only_far"), "difference", 0.5, "accuracy", "points", gate=False),
        Check("farther domains: over task arithmetic at 0.3", ("opcm_far", "task_arithmetic_far"), "difference", 0.5, "accuracy", "points", gate=False),
    ),
    measure=measure,
    reads="",
    picture="wbench.plots:merging",
)  # fmt: skip
