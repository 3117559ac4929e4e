"""Layers of Poincaré networks (van Spengler, Berkhout, Mettes, 2023, arXiv:2303.14027).

Between layers activations are tangent vectors at the origin, over the channel axis: each layer enters the ball by the exponential
map and leaves it by the logarithm, so that layers of differing curvature fit together and pairs of maps that cancel are not computed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wbench.ops.poincare import (
    Curve,
    beta_ratio,
    check_curvature,
    expmap0,
    frechet_mean,
    leave,
    midpoint,
    mobius_add,
)
from wbench.ops.poincare_tangent import connected, normalised

WHO = "poincare_resnet"


class Curvature(nn.Module):
    """The curvature of a layer: fixed, or softplus of a parameter that starts where it gives the same.

    Args:
        c: Curvature at the start.
        learn: Whether it is trained.

    Raises:
        FitError: Unless `c` is positive and finite.
    """

    def __init__(self, c: float, learn: bool = False) -> None:
        super().__init__()
        self.fixed = check_curvature(c, WHO)
        self.theta = nn.Parameter(torch.tensor(c + math.log(-math.expm1(-c)))) if learn else None

    def forward(self) -> Curve:
        """Return c."""
        return self.fixed if self.theta is None else F.softplus(self.theta)


def initial(n: int, m: int, how: str) -> Tensor:
    """Return orientations (n, m) at the start.

    Args:
        n: Features in.
        m: Features out.
        how: `eye`: half of the identity, cut or padded with zeros; `hnn`: normal with variance 1 / (2 n m).
    """
    return 0.5 * torch.eye(n, m) if how == "eye" else torch.randn(n, m) / math.sqrt(2 * n * m)


class PoincareLinear(nn.Module):
    """F^c between balls. Parameters: `weight` (features in, features out), the paper's Z; `offset` (features out), its r.

    Args:
        n: Features in.
        m: Features out.
        c: Curvature.
        learn_c: Whether it is trained.
        init: As in `initial`.
    """

    def __init__(self, n: int, m: int, c: float = 0.1, learn_c: bool = False, init: str = "eye") -> None:
        super().__init__()
        self.weight, self.offset = nn.Parameter(initial(n, m, init)), nn.Parameter(torch.zeros(m))
        self.curvature = Curvature(c, learn_c)

    def forward(self, t: Tensor) -> Tensor:
        """Return tangent vectors (..., m); input tangent vectors (..., n)."""
        square = t.square().sum(-1, keepdim=True)
        return connected(t @ self.weight, square, self.weight, self.offset, self.curvature())


class PoincareConv(nn.Module):
    """Convolution: patches of tangent vectors, scaled by a ratio of beta functions, through F^c. Zero padding is the origin.

    Parameters: `weight` (channels in * kernel^2, channels out), patches channel by channel; `offset` (channels out).

    Args:
        channels: In and out.
        kernel: Side of the kernel.
        stride: Stride.
        padding: Zeros around the image.
        c: Curvature.
        learn_c: Whether it is trained.
        init: As in `initial`, or `center`: output j starts as input j.
    """

    def __init__(
        self,
        channels: tuple[int, int],
        kernel: int = 3,
        stride: int = 1,
        padding: int = 1,
        c: float = 0.1,
        learn_c: bool = False,
        init: str = "eye",
    ) -> None:
        super().__init__()
        (few, many), taps = channels, kernel**2
        self.kernel, self.stride, self.padding = kernel, stride, padding
        self.ratio = beta_ratio(few * taps, few)
        weight = initial(few * taps, many, "eye" if init == "center" else init)
        if init == "center":
            weight.zero_()
            for j in range(min(few, many)):
                weight[j * taps + taps // 2, j] = 0.5 / self.ratio
        self.weight, self.offset = nn.Parameter(weight), nn.Parameter(torch.zeros(many))
        self.curvature = Curvature(c, learn_c)

    def forward(self, t: Tensor) -> Tensor:
        """Return (samples, channels out, height, width), sides as torch's; input (samples, channels in, height, width)."""
        t = t * self.ratio
        square = F.avg_pool2d(
            t.square().sum(1, keepdim=True), self.kernel, self.stride, self.padding, divisor_override=1
        )
        # not conv2d: in torch 2.13 the backward pass of a 1 x 1 kernel with stride 2 writes beyond its memory (channels last, CPU)
        product = self.weight.T @ F.unfold(t, self.kernel, padding=self.padding, stride=self.stride)
        return connected(
            product.unflatten(2, square.shape[2:]), square, self.weight, self.offset, self.curvature(), axis=1
        )


class PoincareNorm(nn.Module):
    """Batch norm: to mean exp_0(`mean`) and variance `variance`, one variance for all channels.

    In evaluation the statistics are running ones where `running` says so; the paper's code uses the batch's there too.

    Args:
        channels: Channels.
        how: `midpoint` or `frechet`: the mean that is used.
        running: Whether evaluation uses running statistics.
        momentum: Share of the newest batch in them.
    """

    def __init__(self, channels: int, how: str = "midpoint", running: bool = True, momentum: float = 0.1) -> None:
        super().__init__()
        self.mean, self.variance = nn.Parameter(torch.zeros(channels)), nn.Parameter(torch.ones(()))
        self.how, self.running, self.momentum = how, running, momentum
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_variance", torch.ones(()))
        self.running_mean: Tensor
        self.running_variance: Tensor

    def forward(self, t: Tensor, c: Curve) -> Tensor:
        """Return the input's shape, (samples, channels, ...), tangent vectors; `c` is the ball's curvature."""
        channels_first = t.transpose(0, 1)
        x = expmap0(channels_first.flatten(1).T, c)  # channels far apart in memory: sums over few of them are fast
        target, batch = expmap0(self.mean, c), self.training or not self.running
        mean = (midpoint if self.how == "midpoint" else frechet_mean)(x, c) if batch else self.running_mean
        points, variance = normalised(x, mean, target, self.variance, c, None if batch else self.running_variance)
        if self.training:
            self._remember(mean.detach(), variance.detach(), c.detach() if isinstance(c, Tensor) else c)
        return leave(points, c).T.unflatten(1, channels_first.shape[1:]).transpose(0, 1)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, c: Curve) -> None:
        share = mean.new_tensor([1 - self.momentum, self.momentum])
        self.running_mean.copy_(midpoint(torch.stack([self.running_mean, mean]), c, share))
        self.running_variance.lerp_(variance, self.momentum)


class PoincareBlock(nn.Module):
    """conv-norm-relu-conv-norm, added by (+) to the input or to a 1 x 1 convolution of it, then ReLU.

    Args:
        channels: In and out.
        stride: Of the first convolution.
        c: Curvature.
        learn_c: Whether each layer's is trained (of the norms, one for both).
        conv_init: As in `PoincareConv`.
        norm: As `how` in `PoincareNorm`.
        skip: `fr`: branch (+) input; `rf`: input (+) branch.
        running: As in `PoincareNorm`.
    """

    def __init__(
        self,
        channels: tuple[int, int],
        stride: int,
        c: float,
        learn_c: bool,
        conv_init: str,
        norm: str,
        skip: str,
        running: bool,
    ) -> None:
        super().__init__()
        few, many = channels
        self.conv1 = PoincareConv((few, many), 3, stride, 1, c, learn_c, conv_init)
        self.conv2 = PoincareConv((many, many), 3, 1, 1, c, learn_c, conv_init)
        self.norm1, self.norm2 = PoincareNorm(many, norm, running), PoincareNorm(many, norm, running)
        self.norm_curvature, self.skip_curvature = Curvature(c, learn_c), Curvature(c, learn_c)
        same = few == many and stride == 1
        self.shortcut = None if same else PoincareConv((few, many), 1, stride, 0, c, learn_c, conv_init)
        self.skip = skip

    def forward(self, t: Tensor) -> Tensor:
        """Return (samples, channels out, height, width), tangent vectors, as the input."""
        normed = self.norm_curvature()
        branch = self.norm1(self.conv1(t), normed).relu()
        branch = self.norm2(self.conv2(branch), normed)
        c, straight = self.skip_curvature(), t if self.shortcut is None else self.shortcut(t)
        f, r = (expmap0(part.movedim(1, -1), c) for part in (branch, straight))
        joined = mobius_add(f, r, c) if self.skip == "fr" else mobius_add(r, f, c)
        return leave(joined, c).movedim(-1, 1).relu()
