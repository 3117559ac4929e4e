"""Lengths of weights."""

from __future__ import annotations

import torch
from torch import Tensor


def frobenius(weight: Tensor, granularity: str = "tensor") -> Tensor:
    """Return the norm of a weight in float32 at least.

    Args:
        weight: (out, ...).
        granularity: `tensor`: one number; `row`: one an output row.

    Returns:
        Scalar, or (out, 1, ...).
    """
    wide = weight.detach().to(torch.promote_types(weight.dtype, torch.float32))
    if granularity == "tensor":
        return wide.norm()
    return wide.flatten(1).norm(dim=1).view(-1, *[1] * (weight.ndim - 1))
