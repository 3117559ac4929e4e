"""Poincaré ResNet. Max van Spengler, Erwin Berkhout, Pascal Mettes, ICCV 2023, arXiv:2303.14027.

A residual network whose every layer acts on points of a Poincaré ball of curvature -c. Signals neither collapse to the origin nor
run to the rim, because fully connected maps start as the identity (Z = I / 2, r = 0), and batch norm uses the Poincaré midpoint,
a closed form, where others iterate for the Fréchet mean. The mathematics is in `wbench.ops.poincare`.

    layer:  t (samples, n) -> exp_0 -> F^c(x; Z (n, m), r (m,)) -> log_0 -> (samples, m)
    conv:   t (samples, C, H, W) * B(C k^2 / 2, 1/2) / B(C / 2, 1/2) -> patches (C k^2) -> layer
    norm:   m = midpoint; exp_e( sqrt(gamma / var) P_{m -> e} log_m x ),  e = exp_0(mu)
    skip:   log_0( exp_0 F(t) (+) exp_0 t ), then ReLU, both over the channels

Where the authors' code differs from the paper (lambda as a product, the skip along the image's width) the paper is followed. The
running statistics of the norms are this project's; `running=False` evaluates with those of the batch, as the authors' code does.
Backward passes are autograd's. Pixels are tangent vectors at the origin.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor, nn

from wbench.errors import FitError, KnobError
from wbench.method import Context, Layer, Paper, knob
from wbench.methods.layer.poincare_layers import WHO, PoincareLinear
from wbench.methods.layer.poincare_networks import PoincareMLP, PoincareNet
from wbench.ops.poincare import expmap0, frechet_mean, logmap0, midpoint

if TYPE_CHECKING:
    import pandas as pd

    from wbench.task import Task

SAMPLES = 64


def norm_ratios(depth: int, width: int, c: float, init: str, rng: torch.Generator) -> list[float]:
    """Return the mean norm of points after each of some linear layers at their start, over that before the first.

    Args:
        depth: Layers.
        width: Features.
        c: Curvature.
        init: `eye` or `hnn`.
        rng: Draws 256 points (tangent vectors of deviation 0.5), and the layers' weights.

    Returns:
        One number a layer, in float64.
    """
    t = 0.5 * torch.randn(256, width, generator=rng, dtype=torch.float64)
    before, found = float(t.norm(dim=-1).mean()), []
    for _ in range(depth):
        layer = PoincareLinear(width, width, c, init="eye").double()
        with torch.no_grad():
            if init == "hnn":
                layer.weight.normal_(std=1 / (math.sqrt(2) * width), generator=rng)
            t = layer(t)
        found.append(float(t.norm(dim=-1).mean()) / before)
    return found


class PoincareResNet(Layer):
    """Build a network on Poincaré balls in place of the task's model.

    Usage:
        `model = PoincareResNet(depth=8).build(task)`
    """

    id: ClassVar[str] = "poincare_resnet"
    title: ClassVar[str] = "Poincaré ResNet"
    paper: ClassVar[Paper | None] = Paper(
        "Poincaré ResNet",
        "van Spengler, Berkhout, Mettes",
        2023,
        "2303.14027",
        "github.com/maxvanspengler/poincare-resnet",
    )
    topics: ClassVar[tuple[str, ...]] = ("hyperbolic geometry", "residual networks", "initialisation")
    dtypes: ClassVar[tuple[torch.dtype, ...]] = (torch.float32, torch.float64)
    picture: ClassVar[str] = "wbench.plots:ball"

    layers: Literal["*"] = knob("*", doc="The whole network is built; there is nothing to choose.")
    architecture: Literal["resnet", "mlp"] = knob("resnet", doc="Residual network, or linear layers without norm.")
    c: float = knob(0.1, 1e-6, 100.0, slider=(1e-3, 2.0), scale="log", doc="Curvature is -c; towards 0: Euclidean.")
    learn_c: bool = knob(False, doc="Train a curvature for each layer.")
    channels: tuple[int, ...] = knob((4, 8, 16), 1, 1024, unit="channels", doc="Channels of each group of the ResNet.")
    depth: int = knob(
        20,
        1,
        200,
        slider=(8, 32),
        unit="layers",
        doc="ResNet: 2 + 2 blocks of all groups (8, 14, 20, 32). MLP: layers after the first.",
    )
    width: int = knob(32, 1, 4096, slider=(2, 256), scale="log", unit="features", doc="Hidden features of the MLP.")
    init: Literal["eye", "hnn"] = knob("eye", doc="Start of linear layers: the identity, or normal.")
    conv_init: Literal["eye", "center", "hnn"] = knob(
        "eye", doc="Start of convolutions: first taps of a patch, centre taps, or normal."
    )
    bn: Literal["midpoint", "frechet"] = knob("midpoint", doc="Mean that batch norm uses.")
    skip: Literal["fr", "rf"] = knob("fr", doc="Order of the sum: branch first, or input first.")
    running: bool = knob(
        True,
        doc="Evaluate batch norm with running statistics, which lag behind in the first hundreds of steps; off: with the batch's.",
    )

    def build(self, task: Task, ctx: Context | None = None) -> nn.Module:
        """Return the network for a task's inputs and as many outputs as the task's own model has.

        Args:
            task: What will be trained on.
            ctx: The run.

        Raises:
            KnobError: If a ResNet cannot have this depth.
            FitError: If the inputs are not floating, or no images where a ResNet is built.
        """
        x = next(iter(task.data(0)["train"].sequential(2)))[0]
        if not x.is_floating_point():
            raise FitError(
                f"{WHO}: inputs must be floating (pixels are tangent vectors), got {x.dtype} of shape {tuple(x.shape)}"
            )
        with torch.no_grad():
            classes = task.model(0).eval()(x).shape[-1]
        if self.architecture == "mlp":
            hidden = (self.width,) * (self.depth + 1)
            return PoincareMLP((x[0].numel(), *hidden, classes), self.c, self.learn_c, self.init)
        groups = len(self.channels)
        blocks, rest = divmod(self.depth - 2, 2 * groups)
        if rest or blocks < 1 or not groups:
            fit = ", ".join(str(2 + 2 * groups * blocks) for blocks in (1, 2, 3))
            raise KnobError(
                f"{WHO}: depth={self.depth} is no sum of 2 and 2 layers a block in {groups} groups; allowed: {fit}, ..."
            )
        if x.ndim != 4:
            raise FitError(
                f"{WHO}: a ResNet needs images (samples, channels, height, width), got {tuple(x.shape)}; use architecture='mlp'"
            )
        return PoincareNet(
            x.shape[1], classes, self.channels, blocks, self.c, self.learn_c, self.init, self.conv_init, self.bn, self.skip, self.running
        )  # fmt: skip

    def observe(self, model: nn.Module, ctx: Context | None = None) -> pd.DataFrame | None:
        """Return where the activations of the first training samples lie in the ball, at each depth, and their two means.

        Columns: depth (0: before the first hidden layer or block), what (`sample`; `midpoint` and `frechet`: the means that batch
        norm can use, of these samples), sample, target (both -1 of a mean), norm (of the tangent vector, mean over the image),
        radius (sqrt(c) |x|), x, y: the plane of the two largest directions in sqrt(c) x.
        """
        import pandas as pd

        if ctx is None or "train" not in ctx.splits:
            return None
        batch = tuple(part.to(ctx.device) for part in next(iter(ctx.splits["train"].sequential(SAMPLES))))
        was_training = model.training
        model.eval()
        with torch.no_grad():
            found: list[Tensor] = model.depths(batch[0])  # type: ignore[operator]
        model.train(was_training)
        frames = []
        for depth, t in enumerate(found):
            t = t.flatten(2).mean(2) if t.ndim > 2 else t
            points = (self.c**0.5 * expmap0(t, self.c)).double().cpu()  # of the unit ball, whose curvature is -1
            means = torch.stack([midpoint(points, 1.0), frechet_mean(points, 1.0, tolerance=1e-6)])
            norms = torch.cat([t.norm(dim=-1).double().cpu(), logmap0(means, 1.0).norm(dim=-1) / self.c**0.5])
            directions = torch.linalg.svd(points, full_matrices=False).Vh[:2].T
            points = torch.cat([points, means])
            plane = torch.nn.functional.pad(points @ directions, (0, 2 - directions.shape[1]))
            frames.append(
                pd.DataFrame({
                    "depth": depth, "what": ["sample"] * len(t) + ["midpoint", "frechet"], "sample": [*range(len(t)), -1, -1],
                    "target": [*batch[1].tolist(), -1, -1], "norm": norms.numpy(), "radius": points.norm(dim=-1).numpy(),
                    "x": plane[:, 0].numpy(), "y": plane[:, 1].numpy(),
                })
            )  # fmt: skip
        return pd.concat(frames, ignore_index=True)
