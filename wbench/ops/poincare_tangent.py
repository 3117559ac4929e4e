"""Layers of the Poincaré ball from tangent vectors at the origin to tangent vectors at the origin, in closed form.

What `wbench.ops.poincare` computes map by map, with the maps that cancel left out: log_0, project and exp_0 only change lengths, and
transport from the mean to the target is one rotation for all points. Same values and gradients, to rounding.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from wbench.ops.poincare import MARGIN, TINY, Curve, gyration, hyperplanes, length, mobius_add


def connected(product: Tensor, square: Tensor, z: Tensor, r: Tensor, c: Curve, axis: int = -1) -> Tensor:
    """Return log_0 of the projected F^c(exp_0(t); Z, r), from products of t with the columns of Z.

    Args:
        product: <t, z_k>, m features along `axis`.
        square: |t|^2, of size 1 along `axis`.
        z: Orientations, (n, m).
        r: Offsets, (m,).
        c: Curvature.
        axis: Of the features.

    Returns:
        Tangent vectors at the origin, shape of `product`.
    """
    along = [1] * product.ndim
    along[axis] = -1
    root = c**0.5
    size = square.clamp_min(TINY**2).sqrt()
    radius = torch.tanh(root * size).clamp_max(1.0 - MARGIN[product.dtype])  # sqrt(c) |x|
    scale = 2.0 / (1.0 - radius.square())
    columns, turn = length(z, 0)[0].view(along), (2 * root * r).view(along)
    w = hyperplanes(product, scale * radius / size, scale, columns, turn)
    reach = length(w, axis)
    most = math.atanh(1.0 - MARGIN[product.dtype])
    return w * ((torch.asinh(reach) / 2).clamp_max(most) / (root * reach))


def normalised(
    x: Tensor, mean: Tensor, target: Tensor, wanted: Tensor, c: Curve, variance: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return points carried from about one mean to about another, with another variance.

    exp_target(sqrt(wanted / variance) P(log_mean(x))), P the transport from mean to target, not projected.

    Args:
        x: Points, (N, n).
        mean: (n,).
        target: (n,).
        wanted: Variance about the target, a scalar.
        c: Curvature.
        variance: Variance about the mean; default: that of these points.

    Returns:
        Points, (N, n), and the variance that was used.
    """
    way = mobius_add(-mean, x, c)
    scaled = c**0.5 * length(way)
    half = torch.atanh(scaled.clamp_max(1.0 - torch.finfo(x.dtype).eps))  # of sqrt(c) times the distance to the mean
    variance = (4.0 / c) * half.square().mean() if variance is None else variance
    factor = (wanted / (variance + 1e-6)).clamp_min(0.0).sqrt()
    rotation = gyration(
        target, -mean, torch.eye(len(mean), dtype=mean.dtype, device=mean.device), c
    )  # a row for each axis
    return mobius_add(target, torch.tanh(factor * half) / scaled * (way @ rotation), c), variance
