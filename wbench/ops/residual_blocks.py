"""A matrix as a stack of residual blocks: signs at one bit an entry, times a matrix of low rank (arXiv:2410.23918)."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from wbench.ops.rounding import pack_bits, sign, unpack_bits


class Blocks(NamedTuple):
    """A stack of residual blocks.

    Attributes:
        signs: (blocks, ceil(m n / 8)), packed; (blocks, 0) for plain singular value blocks.
        a: (blocks, m, k).
        b: (blocks, k, n).
    """

    signs: Tensor
    a: Tensor
    b: Tensor

    def sum(self, count: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the sum of the first blocks, (m, n).

        Args:
            count: How many.
            dtype: Of the result; the factors are multiplied in it.
        """
        shape = self.a.shape[1], self.b.shape[2]
        total = torch.zeros(shape, dtype=dtype, device=self.a.device)
        for signs, a, b in zip(self.signs[:count], self.a[:count], self.b[:count], strict=True):
            block = a.to(dtype) @ b.to(dtype)
            total += torch.where(unpack_bits(signs, block.numel()).view(shape), block, -block) if len(signs) else block
        return total


def decompose(
    weight: Tensor,
    blocks: int,
    k: int,
    *,
    avd: bool = True,
    residual_of: Literal["stored", "float32"] = "stored",
    dtype: torch.dtype = torch.float16,
) -> Blocks:
    """Decompose a matrix into residual blocks (iterative absolute value decomposition).

    Args:
        weight: (m, n), float32 or float64.
        blocks: How many.
        k: Singular vectors of each block.
        avd: Decompose |R| and keep the signs; otherwise R itself.
        residual_of: Whether the next block sees what rounding to `dtype` has left.
        dtype: Of the factors as stored.

    Returns:
        The stack.
    """
    residual, found = weight, []
    for _ in range(blocks):
        signs = sign(residual) if avd else torch.ones_like(residual)
        u, d, vh = torch.linalg.svd(signs * residual, full_matrices=False)
        root = d[:k].sqrt()
        exact = u[:, :k] * root, root[:, None] * vh[:k]
        a, b = (factor.to(dtype) for factor in exact)
        used = (a.to(weight.dtype), b.to(weight.dtype)) if residual_of == "stored" else exact
        residual = residual - signs * (used[0] @ used[1])
        found.append((pack_bits(signs > 0) if avd else torch.empty(0, dtype=torch.uint8, device=a.device), a, b))
    return Blocks(*(torch.stack(parts) for parts in zip(*found, strict=True)))


def block_rank(m: int, n: int, k: int | None, avd: bool = True) -> int:
    """Return the singular vectors of each block of an m x n weight.

    Args:
        m: Rows.
        n: Columns.
        k: As given; `None`: 16 at 4096, in proportion to the smaller side, at least 1.
        avd: Without it, as many more as the signs' bits would pay for.
    """
    k = max(1, round(0.0078 * min(m, n) / 2)) if k is None else k
    return min(k if avd else k + m * n // (16 * (m + n)), m, n)
