"""Weight compander: does training through the compander leave weights limited in magnitude and away from zero?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from wbench.claims.checks import Check
from wbench.claims.claim import Claim, Measured, final_metrics
from wbench.methods import WeightCompander
from wbench.recipe import Recipe
from wbench.study import Arm
from wbench.tasks import Digits

if TYPE_CHECKING:
    from wbench.runs import Run

_RECIPE = Recipe(optimizer="sgd", lr=0.05, momentum=0.9, weight_decay=1e-3, batch_size=32, steps=600)


def measure(arm: str, run: Run, runs: Mapping[str, Run]) -> Measured:
    """Return the test metrics and, over all weights in units of their layer's deviation, share near zero, largest, kurtosis.

    Args:
        arm: The arm's name.
        run: Its run.
        runs: The runs of the seed.

    Returns:
        Metric to value.
    """
    matrices = [value.double().numpy().ravel() for value in run.tensors().values() if value.ndim > 1]
    z = np.concatenate([matrix / matrix.std() for matrix in matrices])
    shape = {
        "near_zero_share": float((np.abs(z) < 0.1).mean()),
        "max_z": float(np.abs(z).max()),
        "kurtosis": float((z**4).mean()),
    }
    return {**final_metrics(arm, run, runs), **shape}


_BASELINES = ("plain", "plain_lr4")
claim = Claim(
    id="weight_compander",
    statement="Passing every weight through a compander restricts its magnitude and forces it away from zero, and added to "
    "standard regularisation it improves the test performance.",
    paper_result="Abstract of arXiv:2306.16993; the paper's tables could not be read, so no figure is quoted.",
    task=Digits(train_size=200, label_noise=0.1),
    recipes={"smoke": _RECIPE.replace(steps=60), "cpu": _RECIPE, "gpu": _RECIPE.replace(steps=6000)},
    arms={
        "plain": Arm(),
        "plain_lr4": Arm(recipe={"lr": 0.2}),
        "wc": Arm((WeightCompander(),)),
        "identity": Arm((WeightCompander(fn="identity"),)),
    },
    method="wc",
    control="identity",
    checks=(
        Check(
            "share of weights near zero, against both plain arms",
            ("wc", *_BASELINES),
            "ratio",
            0.5,
            "near_zero_share",
            "of theirs",
            direction="<=",
        ),
        Check(
            "largest |z|, against both plain arms",
            ("wc", *_BASELINES),
            "ratio",
            0.5,
            "max_z",
            "of theirs",
            direction="<=",
        ),
        Check(
            "test accuracy over the better plain arm",
            ("wc", *_BASELINES),
            "difference",
            0.005,
            "accuracy",
            "(share)",
            gate=False,
        ),
    ),
    measure=measure,
    reads="The two gating checks test the shape of the weights, which the abstract claims. The benefit is reported only: the "
    "function is this project's own with the paper's stated properties, and gains well below a point need more data than this.",
)
