"""Fake quantisation on affine grids whose range is learned, and ranges to start from (arXiv:2006.10518, section 3.1)."""

from __future__ import annotations

import torch
from torch import Tensor

from wbench.ops.rounding import round_ste

SPAN = (1e-6, 1e5)  # of a range; a learned one may become negative
SHRINK = 40


def fake_quantize(x: Tensor, low: Tensor, span: Tensor, bits: int) -> Tensor:
    """Return values on the grid of 2^bits steps over a range, zero among them.

    Rounding passes gradients straight through; x outside the range gets none, the range gets them through step and zero point.

    Args:
        x: Any shape.
        low: Where the range begins; broadcasts with x.
        span: How long it is, of the same shape.
        bits: Bits of a code.

    Returns:
        Of the shape of x; zero stays zero.
    """
    top = 2**bits - 1
    step = span.clamp(*SPAN) / top
    low = -step * round_ste(-low / step).clamp(0, top)
    return step * round_ste(((x - low) / step).clamp(0, top)) + low


def weight_range(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the range of each output channel.

    Args:
        weight: (out, ...).

    Returns:
        Beginnings and lengths, (out, 1, ...), zero within; length 1 where all weights are zero.
    """
    flat = weight.detach().flatten(1)
    shape = (len(weight), *(1,) * (weight.ndim - 1))
    return _spanned(flat.amin(1).view(shape), flat.amax(1).view(shape))


def clipped_weight_range(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Return for each output channel the share of its range, from 1 / 40 to all of it, whose grid leaves the least squared error.

    Args:
        weight: (out, ...).
        bits: Bits of a code.

    Returns:
        As `weight_range`.
    """
    low, span = weight_range(weight)
    best, least = torch.ones_like(span), torch.full_like(span, torch.inf)
    for part in range(SHRINK, 0, -1):
        share = part / SHRINK
        error = (fake_quantize(weight.detach(), low * share, span * share, bits) - weight.detach()).square()
        error = error.flatten(1).sum(1).view_as(span)
        best, least = torch.where(error < least, share, best), torch.minimum(error, least)
    return low * best, span * best


def input_range(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the range of a layer's inputs: the minimum and maximum of each sample, averaged over samples.

    Args:
        x: (samples, ...).

    Returns:
        Beginning and length, scalars, zero within; narrower than the extremes of all samples.
    """
    flat = x.detach().flatten(1)
    return _spanned(flat.amin(1).mean(), flat.amax(1).mean())


def _spanned(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    low, high = low.clamp(max=0.0), high.clamp(min=0.0)
    return low, torch.where(high > low, high - low, 1.0)
