"""Uniform lattices of few levels for weights and activations: StatsQ's statistical scale, LSQ's learned one, and flips between levels.

Codes are whole numbers from -n to n - 1 with n = 2^(bits - 1); a weight's threshold is where its code changes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wbench.ops.rounding import sign, straight_through

SMALLEST = 1e-12  # a row of zeros has this scale, and its levels round to nothing


def stats_scale(weight: Tensor) -> Tensor:
    """Return StatsQ's scale (Liu et al., 2023, arXiv:2302.02210): twice the mean absolute value of each output row.

    Args:
        weight: (outputs, ...).

    Returns:
        (outputs, 1, ...), without gradient.
    """
    return 2.0 * weight.detach().abs().mean(tuple(range(1, weight.ndim)), keepdim=True).clamp_min(SMALLEST)


def stats_codes(weight: Tensor, scale: Tensor, bits: int) -> Tensor:
    """Return StatsQ's codes: intervals of equal width, none of them centred on zero.

    Args:
        weight: Any shape.
        scale: From `stats_scale`.
        bits: At least 1.

    Returns:
        Whole numbers from -n to n - 1, shape of `weight`.
    """
    half = 2 ** (bits - 1)
    return (weight.detach() / scale * half).floor().clamp(-half, half - 1)


def stats_quantize(weight: Tensor, bits: int) -> Tensor:
    """Return the weight on StatsQ's levels, odd multiples of scale / 2^bits; the gradient passes through whole.

    Args:
        weight: (outputs, ...).
        bits: At least 1.

    Returns:
        Shape of `weight`.
    """
    scale = stats_scale(weight)
    return straight_through(scale * (stats_codes(weight, scale, bits) + 0.5) / 2 ** (bits - 1), weight)


def threshold_distance(weight: Tensor, bits: int) -> Tensor:
    """Return how far a weight is from the nearest threshold of StatsQ, in steps.

    Args:
        weight: (outputs, ...).
        bits: At least 1.

    Returns:
        Not negative, shape of `weight`.
    """
    half = 2 ** (bits - 1)
    place = weight.detach() / stats_scale(weight) * half
    return (place - place.round().clamp(1 - half, half - 1)).abs()


def scaled_gradient(x: Tensor, factor: float) -> Tensor:
    """Return a tensor as it is, with its gradient multiplied.

    Args:
        x: Any shape.
        factor: Of the gradient.
    """
    return straight_through(x, x * factor)


def learned_quantize(x: Tensor, scale: Tensor, bits: int, shared: int, *, signed: bool = True) -> Tensor:
    """Return LSQ's quantisation (Esser et al., 2020, arXiv:1902.08153): round(clamp(x / s)) s, with a gradient to the scale.

    Inside the range the gradient passes to `x`, outside it is 0. With one bit and signs the levels are -s and +s, and the gradient
    passes where |x| <= s.

    Args:
        x: Any shape.
        scale: Positive, broadcastable to `x`.
        bits: At least 1.
        shared: How many numbers share a scale; its gradient is divided by the root of that times the highest code.
        signed: Codes from -n to n - 1, else from 0 to 2^bits - 1.

    Returns:
        Shape of `x`.
    """
    top = max(1, 2 ** (bits - 1) - 1) if signed else 2**bits - 1
    low = -(2 ** (bits - 1)) if signed else 0
    scale = scaled_gradient(scale.clamp_min(1e-5), (top * shared) ** -0.5)
    units = x / scale
    if signed and bits == 1:
        return straight_through(sign(units), units.clamp(-1, 1)) * scale
    clipped = units.clamp(low, top)
    return straight_through(clipped.round(), clipped) * scale


def learned_start(x: Tensor, bits: int, dims: tuple[int, ...], *, signed: bool = True) -> Tensor:
    """Return LSQ's first scale: 2 mean|x| / sqrt(top code), twice that for unsigned codes.

    Args:
        x: Weights or a first batch.
        bits: At least 1.
        dims: Dimensions that share a scale; kept with size 1.
        signed: As in `learned_quantize`.
    """
    top = max(1, 2 ** (bits - 1) - 1) if signed else 2**bits - 1
    return (2.0 if signed else 4.0) * x.detach().abs().mean(dims, keepdim=True).clamp_min(1e-5) / top**0.5


def note_flips(codes: Tensor, before: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """Return which weights changed their code, and which of them went back the way they had come.

    Args:
        codes: Now.
        before: At the step before; changed in place to `codes`.
        direction: Sign of each weight's last change, 0 for none so far; changed in place.

    Returns:
        Flips and oscillations, booleans of the same shape.
    """
    change = torch.sign(codes - before)
    flips = change != 0
    oscillations = flips & (change == -direction)
    direction.copy_(torch.where(flips, change, direction))
    before.copy_(codes)
    return flips, oscillations
