"""Bone: does one shared zero matrix, guided by the weight, converge faster than LoRA's pair?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from wbench.claims.checks import Check
from wbench.claims.claim import Claim, Measured, final_metrics
from wbench.methods import Bone, LoRA, PiSSA
from wbench.recipe import Recipe
from wbench.study import Arm
from wbench.tasks import DigitDomains

if TYPE_CHECKING:
    from wbench.runs import Run

_BASE = {"optimizer": "adam", "lr": 1e-3, "steps": 400}
_RECIPE = Recipe(optimizer="adamw", lr=3e-3, batch_size=64, steps=100)
_RATES = {"lr": (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)}


def measure(arm: str, run: Run, runs: Mapping[str, Run]) -> Measured:
    """Return the mean training loss over all steps (the area under the curve) and the test metrics.

    Args:
        arm: The arm's name.
        run: Its run.
        runs: The runs of the seed.

    Returns:
        Metric to value.
    """
    return {
        **final_metrics(arm, run, runs),
        "training_loss": run.final("mean_loss", "train"),
        "trainable": run.final("trainable", "store"),
    }


def _tuned(method: Bone | LoRA) -> Arm:
    return Arm((method,), start="base", grid=_RATES)


claim = Claim(
    id="bone",
    statement="One zero matrix shared by the blocks of a frozen weight, and multiplied by them, fine-tunes faster than LoRA and its "
    "variants at equal size and equal learning rate.",
    paper_result="arXiv:2409.15371: LLaMA2-7B on MetaMathQA, GSM8K 49.36 and MATH 8.8, 5.84 and 1.96 points above PiSSA, same rate.",
    task=DigitDomains(domain="rotation"),
    recipes={"smoke": _RECIPE.replace(steps=10), "cpu": _RECIPE, "gpu": _RECIPE.replace(steps=1000)},
    arms={
        "base": Arm(task=DigitDomains(domain="identity"), recipe=_BASE, at_smoke={"steps": 60}),
        "bat": Arm((Bone(r=8, variant="bat"),), start="base"),
        "miss": Arm((Bone(r=8, variant="miss"),), start="base"),
        "lora": Arm((LoRA(rank=4),), start="base"),
        "pissa": Arm((PiSSA(rank=4),), start="base"),
        "random_shards": Arm((LoRA(rank=8, train_a=False),), start="base"),
        "bat_tuned": _tuned(Bone(r=8, variant="bat")),
        "miss_tuned": _tuned(Bone(r=8, variant="miss")),
        "lora_tuned": _tuned(LoRA(rank=4)),
        "pissa_tuned": _tuned(PiSSA(rank=4)),
    },
    method="bat",
    control="random_shards",
    checks=(
        Check("training loss against LoRA, rate 3e-3 for both", ("bat", "lora"), "ratio", 0.8, "training_loss", "of LoRA's", direction="<="),
        Check("the same for the later form, MiSS", ("miss", "lora"), "ratio", 0.8, "training_loss", "of LoRA's", gate=False, direction="<="),
        Check("the same against PiSSA", ("bat", "pissa"), "ratio", 0.8, "training_loss", "of PiSSA's", gate=False, direction="<="),
        Check(
            "each at its best rate: against the better of LoRA and PiSSA", ("bat_tuned", "lora_tuned", "pissa_tuned"), "ratio", 0.8,
            "training_loss", "of theirs", gate=False, direction="<=",
        ),
        Check(
            "each at its best rate: MiSS against the better of the two", ("miss_tuned", "lora_tuned", "pissa_tuned"), "ratio", 0.8,
            "training_loss", "of theirs", gate=False, direction="<=",
        ),
    ),
    measure=measure,
    reads="The verdict is on speed at one shared learning rate, as the paper compares. Part of that is step size: summing shards "
    "moves the output further at the same rate. The rows at each arm's best rate (chosen on validation data) show what remains.",
)  # fmt: skip
