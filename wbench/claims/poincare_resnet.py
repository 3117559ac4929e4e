"""Poincaré ResNet: do layers that start as the identity train where a normal start collapses, and is the midpoint good enough?

A prototype reached 0.93 in 3 epochs of 1,347 digits, 63 steps; on this task's 1,000 digits 63 steps give 0.860 on the pilot seeds 100
to 103 (normal start: 0.091), too near the threshold of 0.85 to decide. So training takes 100 steps (0.914 on seeds 100 and 101), and
the thresholds stay. The ResNets of the second question train for 3 epochs, 48 steps, and are evaluated with the statistics of the
batch, as by the authors' code: running statistics, which are this project's, lag so far behind after 48 steps that the pilots' test
accuracy was 0.56 to 0.85 with them, 0.89 to 0.92 without, and the pairs of runs differed by up to 0.10 instead of 0.013.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from wbench.claims.checks import Check
from wbench.claims.claim import Claim, Measured, final_metrics
from wbench.methods.layer.poincare_layers import PoincareNorm
from wbench.methods.layer.poincare_resnet import PoincareResNet, norm_ratios
from wbench.ops.poincare import distance, expmap0, frechet_mean, frechet_variance, midpoint
from wbench.recipe import Recipe
from wbench.study import Arm
from wbench.tasks import Digits

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from wbench.runs import Run

_RECIPE = Recipe(optimizer="adam", lr=3e-3, batch_size=64, steps=100)
_EYE = PoincareResNet(architecture="mlp", depth=12, width=32)
_HNN = _EYE.replace(init="hnn")
_RESNET = PoincareResNet(depth=8, running=False)
_EPOCHS = {"steps": 48}
DEPTH, WIDTH, CURVATURE = 20, 16, 0.1
NORMS = ((4, 8), (4, 8), (4, 8), (8, 4), (8, 4), (16, 2), (16, 2))  # channels and side of what the ResNet-8's norms see


def _times(one: Callable[[], object], other: Callable[[], object], rounds: int = 7) -> float:
    # how many times longer the second takes: least times, measured in turn
    least = [float("inf"), float("inf")]
    for _ in range(rounds):
        for index, work in enumerate((one, other)):
            start = time.perf_counter()
            work()
            least[index] = min(least[index], time.perf_counter() - start)
    return least[1] / least[0]


def _norms(how: str, images: list[Tensor]) -> Callable[[], None]:
    layers = [PoincareNorm(image.shape[1], how) for image in images]

    def work() -> None:
        for layer, image in zip(layers, images, strict=True):
            layer(image, CURVATURE).square().sum().backward()

    return work


def picture(frame: pd.DataFrame) -> go.Figure:
    """Draw both starts of the first seed side by side: norms over depth, and where activations lie.

    Args:
        frame: From `ClaimResult.picture_frame`.

    Returns:
        A figure.
    """
    from wbench.plots import ball

    own = frame[(frame["table"] == "method.poincare_resnet") & frame["arm"].isin(["eye", "hnn"])]
    own = own[own["seed"] == own["seed"].min()].astype({"depth": int, "target": int})
    return ball(own.assign(run=own["arm"].map({"eye": "identity", "hnn": "normal"})))


def measure(arm: str, run: Run, runs: Mapping[str, Run]) -> Measured:
    """Return the test metrics, what becomes of norms over 20 layers at the arm's start, and how the two means compare.

    Args:
        arm: The arm's name.
        run: Its run.
        runs: The runs of the seed.

    Returns:
        Metric to value: `norm_change` is the largest |ratio - 1| over the layers, `norm_left` the last ratio; `mean_seconds` (the
        Fréchet mean's over the midpoint's) and `mean_apart` (their distance over the cloud's spread) are of 256 points in 16
        dimensions with a spread of about 4. Of a ResNet, beside the metrics: `norm_seconds`, forward and backward pass of its seven
        batch norms with the Fréchet mean over the same with the midpoint.
    """
    rng = torch.Generator().manual_seed(run.seed)
    if arm.startswith("resnet"):
        images = [torch.randn(64, channels, side, side, generator=rng).requires_grad_() for channels, side in NORMS]
        found = dict(final_metrics(arm, run, runs))
        if arm == "resnet_midpoint":
            found["norm_seconds"] = _times(_norms("midpoint", images), _norms("frechet", images))
        return found
    ratios = norm_ratios(DEPTH, WIDTH, CURVATURE, "eye" if arm == "eye" else "hnn", rng)
    cloud = expmap0(torch.randn(256, WIDTH, generator=rng, dtype=torch.float64) * 0.5, CURVATURE)
    close, exact = midpoint(cloud, CURVATURE), frechet_mean(cloud, CURVATURE)
    spread = frechet_variance(cloud, exact, CURVATURE).sqrt()
    return {
        **final_metrics(arm, run, runs),
        "norm_change": max(abs(ratio - 1) for ratio in ratios),
        "norm_left": ratios[-1],
        "mean_seconds": _times(lambda: midpoint(cloud, CURVATURE), lambda: frechet_mean(cloud, CURVATURE)),
        "mean_apart": float(distance(close, exact, CURVATURE) / spread),
    }


claim = Claim(
    id="poincare_resnet",
    statement="Poincaré layers that start as the identity keep norms over many layers, where the usual normal start lets signals collapse "
    "to the origin, so that deep networks train; batch norm about the midpoint is as accurate as about the Fréchet mean, at less cost.",
    paper_result="arXiv:2303.14027, abstract and method: identity initialisation preserves norms; the midpoint's batch norm matches the "
    "Fréchet mean's at lower cost. The paper's tables could not be read, so no figure is quoted.",
    task=Digits(),
    recipes={"smoke": _RECIPE.replace(steps=6), "cpu": _RECIPE, "gpu": _RECIPE.replace(steps=2000)},
    arms={
        "eye": Arm((_EYE,), probes=("spectrum",)),
        "hnn": Arm((_HNN,), probes=("spectrum",)),
        "resnet_midpoint": Arm((_RESNET,), recipe=_EPOCHS, at_smoke={"steps": 2}),
        "resnet_frechet": Arm((_RESNET.replace(bn="frechet"),), recipe=_EPOCHS, at_smoke={"steps": 2}),
        "resnet_euclidean": Arm(task=Digits(architecture="resnet", widths=(4, 8, 16)), recipe=_EPOCHS, at_smoke={"steps": 2}),
    },
    method="eye",
    control="hnn",
    checks=(
        Check("largest change of the mean norm over 20 layers", ("eye",), "mean", 1e-10, "norm_change", "(ratio - 1)", direction="<="),
        Check("test accuracy, 12 layers, no norm", ("eye",), "mean", 0.85, "accuracy", "(share)"),
        Check("test accuracy over the normal start's", ("eye", "hnn"), "difference", 0.30, "accuracy", "(share)"),
        Check("ResNet-8: accuracy, midpoint against Fréchet mean", ("resnet_midpoint", "resnet_frechet"), "noninferiority", -0.02, "accuracy", "(share)", gate=False),
        Check("ResNet-8: time of batch norm, Fréchet mean over midpoint", ("resnet_midpoint",), "mean", 3.0, "norm_seconds", "times", gate=False),
        Check("ResNet-8: accuracy over the Euclidean one's", ("resnet_midpoint", "resnet_euclidean"), "difference", 0.0, "accuracy", "(share)", gate=False),
        Check("share of the norm that the normal start leaves after 20 layers", ("hnn",), "mean", 1e-3, "norm_left", "", gate=False, direction="<="),
        Check("time of the Fréchet mean alone over the midpoint's", ("eye",), "mean", 3.0, "mean_seconds", "times", gate=False),
        Check("midpoint to Fréchet mean, over the spread", ("eye",), "mean", 0.03, "mean_apart", "of the spread", gate=False, direction="<="),
    ),
    measure=measure,
    reads="The start is compared in deep networks without batch norm; with it the norms are restored and the start matters little. The control "
    "is the normal start, which says nothing on the two means, so the comparison of ResNets is reported and does not decide. "
    "Three epochs of 1,000 digits say little on accuracy against Euclidean networks, and nothing on samples out of distribution or under "
    "attack, which the paper also claims: these need images larger than 8 x 8. A norm's "
    "time is of a forward and a backward pass at the sizes of this ResNet-8; that of the means alone is forward only.",
    picture="wbench.claims.poincare_resnet:picture",
)  # fmt: skip
