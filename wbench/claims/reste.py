"""ReSTE: do estimating error and stable gradients trade off along the power, and does the schedule keep it trainable?

The thresholds are the card's, whose prototype (another split; 5 seeds) had error ratios of 6 to 10, instability ratios of 50, and
an accuracy of 0.31 for power 30 from the first step, against 0.74. On pilot seeds 100 to 107 of this task that arm reaches 0.71
against 0.73 (also with Kaiming's initial weights, as the authors have them): the last gate is expected to fail here. The
accuracy gain is reported, not gating: neither the prototype nor the pilots resolve it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from wbench.claims.checks import Check
from wbench.claims.claim import Claim, Measured, final_metrics
from wbench.methods.parametrization.reste import ReSTE
from wbench.recipe import Recipe
from wbench.study import Arm
from wbench.tasks import Digits

if TYPE_CHECKING:
    from wbench.runs import Run

_TASK = Digits(architecture="residual_mlp", hidden=(80, 80, 80, 80), norm="batch_last", noise=0.4)
_RECIPE = Recipe(optimizer="sgd", lr=0.1, momentum=0.9, weight_decay=1e-4, schedule="cosine", batch_size=64, steps=400)


def measure(arm: str, run: Run, runs: Mapping[str, Run]) -> Measured:
    """Return the test metrics and both indicators, their means over the last tenth of training.

    Args:
        arm: The arm's name.
        run: Its run.
        runs: The runs of the seed.

    Returns:
        Metric to value.
    """
    values = dict(final_metrics(arm, run, runs))
    frame = run.metrics
    for name in ("estimating_error", "instability"):
        logged = frame[frame["name"] == name]
        if len(logged):
            values[name] = float(logged[logged["step"] >= 0.9 * logged["step"].max()]["value"].mean())
    if "instability" in values:
        values["log_instability"] = math.log10(values["instability"])
    return values


def _arm(o_end: float, schedule: Literal["cos", "const"] = "cos", t: float = 1.5) -> Arm:
    return Arm((ReSTE(o_end=o_end, o_schedule=schedule, t=t),), probes=())


claim = Claim(
    id="reste",
    statement="A sharper gradient estimator of the sign lowers the estimating error and raises the instability of the gradients; raising "
    "its power slowly to a moderate value trains binary networks better than the straight-through estimator.",
    paper_result="arXiv:2308.06689: CIFAR-10, ResNet-20 with binary weights and activations 86.75 %, weights alone 91.32 %.",
    task=_TASK,
    recipes={"smoke": _RECIPE.replace(steps=30), "cpu": _RECIPE, "gpu": _RECIPE.replace(steps=4000)},
    arms={
        "float": Arm(probes=()),
        "ste": _arm(1.0),
        "ste_t1": _arm(1.0, t=1.0),
        "o2": _arm(2.0),
        "o3": _arm(3.0),
        "o10": _arm(10.0),
        "o30": _arm(30.0),
        "const3": _arm(3.0, "const"),
        "const30": _arm(30.0, "const"),
    },
    method="o10",
    control="ste",
    checks=(
        Check("estimating error at power 10 against power 1", ("o10", "ste"), "ratio", 0.5, "estimating_error", "of STE's", direction="<="),
        Check("instability of the gradients, the same", ("o10", "ste"), "difference", 1.0, "log_instability", "decades"),
        Check("the error falls over the powers 1, 2, 3, 10", ("o10", "o3", "o2", "ste"), "order", 0.6, "estimating_error", "of seeds"),
        Check("accuracy over that of power 30 from the first step", ("o10", "const30"), "difference", 0.2, "accuracy", "(share)"),
        Check("accuracy against STE", ("o10", "ste_t1"), "noninferiority", -0.02, "accuracy", "(share)"),
        Check("STE over power 30 from the first step", ("ste_t1", "const30"), "difference", 0.2, "accuracy", "(share)", gate=False),
        Check("the default, power 3: accuracy against STE", ("o3", "ste_t1"), "difference", 0.01, "accuracy", "(share)", gate=False),
    ),
    measure=measure,
    reads="The gating part is the equilibrium itself: error against stability along the power. That power 3 is more accurate than STE "
    "cannot be resolved in a small MLP (differences within noise); the paper shows it on convolutional networks.",
    picture="wbench.plots:equilibrium",
)  # fmt: skip
