"""Normalize-and-Project: does projection keep a network able to learn, where normalisation alone loses it?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from wbench.claims.checks import Check
from wbench.claims.claim import Claim, Measured, final_metrics
from wbench.methods import LayerNormOnly, NaP
from wbench.study import Arm
from wbench.tasks import Digits, DigitStreams
from wbench.tasks.digit_streams import stream

if TYPE_CHECKING:
    from wbench.runs import Run

_TASK = DigitStreams()
_RECIPE = _TASK.recipe("cpu")
_STATIONARY = {"optimizer": "adam", "lr": 1e-3, "batch_size": 32, "phases": (), "steps": 310}
WINDOW = 15


def measure(arm: str, run: Run, runs: Mapping[str, Run]) -> Measured:
    """Return accuracy on the first and the last tasks of the stream, and by how much the hidden weights' norms have grown.

    Args:
        arm: The arm's name.
        run: Its run.
        runs: The runs of the seed.

    Returns:
        Metric to value; of the stationary arms the test metrics.
    """
    if arm.startswith("digits"):
        return final_metrics(arm, run, runs)
    frame = run.metrics
    ends = frame[(frame["split"] == frame["phase"]) & (frame["name"] == "accuracy")].drop_duplicates(
        "phase", keep="last"
    )
    accuracy = ends.sort_values("step")["value"].to_numpy()
    window = min(WINDOW, max(1, len(accuracy) // 2))
    start = {
        name: value.norm()
        for name, value in _TASK.model(run.seed).state_dict().items()
        if name.startswith("blocks") and value.ndim > 1
    }
    growth = [float(run.tensors()[name].norm() / norm) for name, norm in start.items()]
    return {
        "first": float(accuracy[:window].mean()),
        "last": float(accuracy[-window:].mean()),
        "norm_growth": float(np.mean(growth)),
    }


claim = Claim(
    id="nap",
    statement="On a stream of tasks the norms of normalised weights grow and the effective learning rate decays until the network "
    "no longer learns; projecting the weights after each step keeps it learning.",
    paper_result="arXiv:2407.01800: on 200 resets of random-label CIFAR-10 a plain net degrades, layer norm more slowly, NaP stays "
    "at its first performance (directions only; the tables could not be read).",
    task=_TASK,
    recipes={
        "smoke": _RECIPE.replace(phases=stream(4, 10)),
        "cpu": _RECIPE,
        "gpu": _RECIPE.replace(phases=stream(60, 300), lr=1e-3),
    },
    arms={
        "plain": Arm(probes=()),
        "layernorm": Arm((LayerNormOnly(),), probes=("effective_lr",)),
        "nap": Arm((NaP(),), probes=("effective_lr",)),
        "nap_off": Arm((NaP(project=False),)),
        "digits_layernorm": Arm((LayerNormOnly(),), task=Digits(), recipe=_STATIONARY, at_smoke={"steps": 30}),
        "digits_nap": Arm((NaP(),), task=Digits(), recipe=_STATIONARY, at_smoke={"steps": 30}),
    },
    method="nap",
    control="nap_off",
    checks=(
        Check("accuracy on the last tasks", ("nap",), "mean", 0.85, "last", "(share)"),
        Check("accuracy on the last tasks over layer norm alone", ("nap", "layernorm"), "difference", 0.25, "last", "(share)"),
        Check("growth of the hidden norms, against layer norm alone", ("nap", "layernorm"), "ratio", 0.5, "norm_growth", "of theirs", direction="<="),
        Check(
            "does no harm on one fixed task: accuracy against layer norm", ("digits_nap", "digits_layernorm"), "noninferiority",
            -0.01, "accuracy", "(share)", gate=False,
        ),
    ),
    measure=measure,
    reads="The loss of plasticity is provoked by a large learning rate (5e-3, Adam) and random labels; with a rate tuned for each "
    "arm the gap shrinks. The norms' growth is shown beside the accuracy, so that a null result would be explained.",
    picture="wbench.plots:plasticity",
)  # fmt: skip
