"""OFQ: does annealing by distance to the thresholds end oscillation, at no loss of accuracy?

The card's prototype (one seed): share of weights that oscillate twice or more in the last 100 steps 0.0173 without annealing, 0 with;
accuracies 0.952 and 0.970, float 0.962, with twice the steps that fit here. That learned scales oscillate more came out the other way round there; it is reported.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from wbench.claims.checks import Check
from wbench.claims.claim import Claim, Measured, final_metrics
from wbench.methods import LSQ, OFQ
from wbench.recipe import Phase, Recipe
from wbench.study import Arm
from wbench.tasks import Digits

if TYPE_CHECKING:
    from wbench.runs import Run

_TASK = Digits(architecture="vit", transformer=(3, 32, 2))
_LAST = 120


def _phases(steps: int, last: int) -> tuple[Phase, ...]:
    return (Phase(steps=steps), Phase(steps=last, carry=False, lr=5e-4, schedule="constant"))


_RECIPE = Recipe(optimizer="adamw", lr=2e-3, schedule="cosine", batch_size=64, phases=_phases(200, _LAST))
_FLOAT: dict[str, Any] = {"lr": 3e-3, "schedule": "constant", "phases": (Phase(steps=250),)}
_CONSTANT: dict[str, Any] = {"schedule": "constant", "phases": (Phase(steps=150),)}
_SMOKE: dict[str, Any] = {"phases": (Phase(steps=12),)}


def measure(arm: str, run: Run, runs: Mapping[str, Run]) -> Measured:
    """Return the test metrics, oscillation and flips in the last 100 steps, and what the last phase did to validation accuracy.

    Args:
        arm: The arm's name.
        run: Its run.
        runs: The runs of the seed.

    Returns:
        Metric to value: `oscillating` (share of weights that went back twice or more), `flips` (a weight and step), `last_phase`
        (accuracy after it minus before it), `converted` (accuracy before any training).
    """
    values: dict[str, Any] = dict(final_metrics(arm, run, runs))
    frame = run.metrics
    accuracy = frame[(frame["name"] == "accuracy") & (frame["split"] == "valid")]
    values["converted"] = float(accuracy[accuracy["step"] == 0]["value"].iloc[0])
    if "flips" in set(frame["name"]):
        end = frame["step"].max()
        flips = frame[frame["name"] == "flips"]
        values["flips"] = float(flips[flips["step"] > end - 100]["value"].mean())
        values["oscillating"] = float(frame[frame["name"] == "oscillating"]["value"].iloc[-1])
        before = accuracy[(accuracy["step"] > 0) & (accuracy["step"] < end)]
        if len(before):
            values["last_phase"] = float(accuracy["value"].iloc[-1] - before["value"].iloc[-1])
    return values


def _arm(method: OFQ | LSQ, **options: Any) -> Arm:
    return Arm((method,), start="float", probes=(), **options)


claim = Claim(
    id="ofq",
    statement="In few-bit training weights oscillate between levels; freezing all but those at a threshold in a last phase ends that without "
    "loss of accuracy, and scales from statistics serve as well as learned ones.",
    paper_result="arXiv:2302.02210: 2-bit DeiT-T 64.33 % and DeiT-S 75.72 %, 9.8 and 7.7 points above the best before.",
    task=_TASK,
    recipes={
        "smoke": _RECIPE.replace(phases=_phases(20, 10)),
        "cpu": _RECIPE,
        "gpu": _RECIPE.replace(phases=_phases(3000, 600), batch_size=256),
    },
    arms={
        "float": Arm(recipe=_FLOAT, at_smoke=_SMOKE, probes=()),
        "ofq": _arm(OFQ(cga_steps=_LAST)),
        "no_annealing": _arm(OFQ(cga_steps=0)),
        "lsq": _arm(OFQ(cga_steps=0, qkr=False, weight_quant="lsq")),
        "statsq_constant": _arm(OFQ(cga_steps=0, qkr=False), recipe=_CONSTANT, at_smoke=_SMOKE),
        "lsq_constant": _arm(OFQ(cga_steps=0, qkr=False, weight_quant="lsq"), recipe=_CONSTANT, at_smoke=_SMOKE),
    },
    method="ofq",
    control="no_annealing",
    checks=(
        Check("weights that oscillate, against none frozen", ("ofq", "no_annealing"), "ratio", 0.25, "oscillating", "of theirs", direction="<="),
        Check("flips a weight and step, against none frozen", ("ofq", "no_annealing"), "ratio", 0.25, "flips", "of theirs", direction="<="),
        Check("accuracy against none frozen", ("ofq", "no_annealing"), "noninferiority", -0.005, "accuracy", "(share)"),
        Check("validation accuracy over the last phase", ("ofq",), "mean", -0.01, "last_phase", "(share)"),
        Check("accuracy against LSQ", ("ofq", "lsq"), "noninferiority", -0.005, "accuracy", "(share)"),
        Check("accuracy against float weights", ("ofq", "float"), "noninferiority", -0.04, "accuracy", "(share)"),
        Check("StatsQ against LSQ right after conversion", ("statsq_constant", "lsq_constant"), "difference", 0.0, "converted", "(share)", gate=False),
        Check("at a constant rate learned scales oscillate more", ("lsq_constant", "statsq_constant"), "difference", 0.0, "oscillating", "(share)", gate=False),
    ),
    measure=measure,
    reads="That frozen weights do not oscillate is mechanical; the accuracies say what it costs. The control is the same run with nothing "
    "frozen. The paper's cause, that learned scales oscillate more, is the last row. Weights alone have two bits here; activations, "
    "patch embedding and head are float.",
)  # fmt: skip
