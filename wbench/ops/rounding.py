"""Rounding: straight-through estimators, affine grids, stochastic rounding, packing of bits.

Grids are affine with unsigned codes: `w = (code - zero) * scale`, codes 0 .. 2^bits - 1. Rounding is half to even.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

TINY = 1e-5  # least span of a range, so that a constant zero group has a scale


def sign(x: Tensor) -> Tensor:
    """Return the sign of each number, that of zero being +1.

    Args:
        x: Any shape.

    Returns:
        -1 or +1, of the same shape and dtype.
    """
    return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)


def straight_through(value: Tensor, through: Tensor) -> Tensor:
    """Return a value whose gradient goes to another tensor as it is (Bengio et al., 2013, arXiv:1308.3432).

    Args:
        value: What the forward pass uses.
        through: What the gradient reaches, of the same shape.

    Returns:
        `value`, bit for bit.
    """
    return _StraightThrough.apply(value.detach(), through)  # type: ignore[no-any-return]


class _StraightThrough(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor, through: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx: object, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> tuple[None, Tensor]:  # type: ignore[override]
        return None, grad


def round_ste(x: Tensor) -> Tensor:
    """Return whole numbers, half to even; the gradient passes straight through.

    Args:
        x: Any shape.
    """
    return straight_through(x.round(), x)


class Affine(NamedTuple):
    """A tensor on affine grids.

    Attributes:
        codes: uint8, (groups, group size).
        scale: Step of each group, (groups, 1), float32 at least.
        zero: Code of zero, (groups, 1), whole numbers in the same dtype.
        shape: Of the tensor.
    """

    codes: Tensor
    scale: Tensor
    zero: Tensor
    shape: torch.Size

    @property
    def value(self) -> Tensor:
        """The dequantised tensor, in the scale's dtype."""
        return ((self.codes.to(self.scale.dtype) - self.zero) * self.scale).view(self.shape)


def affine_grid(low: Tensor, high: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Return scale and zero point of the grid that spans a range; the range is widened to include zero.

    Args:
        low: Smallest values, any shape.
        high: Largest values, of the same shape.
        bits: Bits of a code.

    Returns:
        Scale and zero point, of the same shape; zero is exactly representable.
    """
    low, high = low.clamp(max=0.0), high.clamp(min=0.0)
    top = 2**bits - 1
    scale = (high - low).clamp_min(TINY) / top
    return scale, (-(low / scale).round()).clamp(0, top)


def quantize_groups(
    x: Tensor, bits: int, group_size: int, *, stochastic: bool = False, generator: torch.Generator | None = None
) -> Affine:
    """Quantise with one affine grid per group of consecutive numbers (row-major).

    Args:
        x: Any shape; `group_size` divides its number of elements.
        bits: 1 to 8.
        group_size: Numbers that share a scale.
        stochastic: Round up with the probability of the remainder, so that the mean is kept, instead of to the nearest.
        generator: Draws for it.

    Returns:
        Codes and grids.
    """
    wide = x.detach() if x.dtype == torch.float64 else x.detach().float()
    groups = wide.reshape(-1, group_size)
    scale, zero = affine_grid(groups.amin(1, keepdim=True), groups.amax(1, keepdim=True), bits)
    units = groups / scale
    if stochastic:
        whole = units.floor()
        draw = torch.rand(units.shape, generator=generator, dtype=units.dtype, device=units.device)
        units = whole + (draw < units - whole).to(units.dtype)
    else:
        units = units.round()
    codes = (units + zero).clamp(0, 2**bits - 1).to(torch.uint8)
    return Affine(codes, scale, zero, x.shape)


def minmax_groups(x: Tensor, bits: int, group_size: int) -> Tensor:
    """Round to the nearest of 2^bits values spread evenly from the least to the largest of each group of consecutive numbers.

    Args:
        x: Any shape; `group_size` divides its number of elements.
        bits: 1 to 8.
        group_size: Numbers that share a range; its minimum and its step are rounded to float16, as they are stored.

    Returns:
        The rounded numbers, of the shape and dtype of `x`; codes beyond the ends after that rounding are clamped.
    """
    wide = x.detach() if x.dtype == torch.float64 else x.detach().float()
    groups = wide.reshape(-1, group_size)
    low, high = groups.amin(1, keepdim=True), groups.amax(1, keepdim=True)
    low, step = (part.half().to(wide.dtype) for part in (low, (high - low) / (2**bits - 1)))
    codes = ((groups - low) / torch.where(step > 0, step, 1.0)).round().clamp(0, 2**bits - 1)
    return (low + codes * step).view(x.shape).to(x.dtype)


def pack_codes(codes: Tensor, bits: int) -> Tensor:
    """Pack codes of 1, 2, 4 or 8 bits into bytes, row-major, the first in the highest bits.

    Args:
        codes: Any shape, uint8, below 2^bits.
        bits: Bits of a code.

    Returns:
        (ceil(elements * bits / 8),), uint8.
    """
    each = 8 // bits
    flat = torch.nn.functional.pad(codes.flatten(), (0, -codes.numel() % each)).view(-1, each)
    shifts = bits * torch.arange(each - 1, -1, -1, device=codes.device)
    return (flat.long() << shifts).sum(1).to(torch.uint8)


def unpack_codes(packed: Tensor, bits: int, count: int) -> Tensor:
    """Return the codes that `pack_codes` packed.

    Args:
        packed: (bytes,), uint8.
        bits: As packed.
        count: How many there were.

    Returns:
        (count,), uint8.
    """
    shifts = bits * torch.arange(8 // bits - 1, -1, -1, device=packed.device, dtype=torch.uint8)
    return ((packed[:, None] >> shifts) & (2**bits - 1)).flatten()[:count]


def pack_groups(x: Tensor, bits: int, group_size: int) -> dict[str, Any]:
    """Return a tensor in few bits, as plain values that a state dict can hold.

    Args:
        x: Any shape; `group_size` divides its number of elements.
        bits: 1, 2, 4 or 8.
        group_size: Numbers that share a scale and a zero point.

    Returns:
        codes (packed into bytes), scale and zero (groups, 1), shape, bits, group_size.
    """
    held = quantize_groups(x, bits, group_size)
    sizes = {"shape": tuple(x.shape), "bits": bits, "group_size": group_size}
    return {"codes": pack_codes(held.codes, bits), "scale": held.scale, "zero": held.zero, **sizes}


def unpack_groups(held: dict[str, Any]) -> Tensor:
    """Return the dequantised tensor.

    Args:
        held: From `pack_groups`.
    """
    shape = torch.Size(held["shape"])
    codes = unpack_codes(held["codes"], held["bits"], shape.numel()).view(-1, held["group_size"])
    return Affine(codes, held["scale"], held["zero"], shape).value


def pack_bits(bits: Tensor) -> Tensor:
    """Pack booleans into bytes, row-major, most significant bit first, zeros at the end.

    Args:
        bits: Any shape, nonzero is 1.

    Returns:
        (ceil(elements / 8),), uint8.
    """
    return pack_codes((bits != 0).to(torch.uint8), 1)


def unpack_bits(packed: Tensor, count: int) -> Tensor:
    """Return the booleans that `pack_bits` packed.

    Args:
        packed: (bytes,), uint8.
        count: How many there were.

    Returns:
        (count,), bool.
    """
    return unpack_codes(packed, 1, count).bool()
