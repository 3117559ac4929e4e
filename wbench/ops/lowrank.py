"""Low-rank parts of matrices: which side of a gradient is projected, its leading subspace, to it and back."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Side = Literal["left", "right", "full"]


def projected_side(shape: tuple[int, int], proj_type: str) -> Side:
    """Return which side of an m x n gradient is projected.

    Args:
        shape: (m, n).
        proj_type: `std`: the smaller side, right when square; `reverse_std`: the larger; or `left`, `right`, `full`.

    Returns:
        `left`, `right` or `full`.
    """
    m, n = shape
    if proj_type == "std":
        return "right" if m >= n else "left"
    if proj_type == "reverse_std":
        return "left" if m >= n else "right"
    return proj_type  # type: ignore[return-value]


def subspace(gradient: Tensor, rank: int, side: Side) -> tuple[Tensor | None, Tensor | None, Tensor]:
    """Return the leading singular vectors of a gradient, in float32 at least.

    Args:
        gradient: (m, n).
        rank: How many.
        side: Which.

    Returns:
        Left basis (m, rank) or `None`, right basis (rank, n) or `None`, and all singular values; unit vectors for a zero gradient.
    """
    wide = gradient if gradient.dtype == torch.float64 else gradient.float()
    if not bool(wide.any()):  # any basis is as good; unit vectors are the same everywhere
        units = torch.eye(max(wide.shape), rank, dtype=wide.dtype, device=wide.device)
        rows, columns = units[: wide.shape[0]].clone(), units[: wide.shape[1]].T.clone()
        values = wide.new_zeros(min(wide.shape))
        return rows if side != "right" else None, columns if side != "left" else None, values
    u, s, vh = torch.linalg.svd(wide, full_matrices=False)
    left = u[:, :rank].clone() if side != "right" else None
    right = vh[:rank].clone() if side != "left" else None
    return left, right, s


def project(gradient: Tensor, left: Tensor | None, right: Tensor | None) -> Tensor:
    """Return the projected gradient R.

    Args:
        gradient: (m, n).
        left: (m, r) or `None`.
        right: (r, n) or `None`.

    Returns:
        (m, r), (r, n), or (r, r) with both.
    """
    result = gradient.to((left if left is not None else right).dtype)  # type: ignore[union-attr]
    if left is not None:
        result = left.T @ result
    return result if right is None else result @ right.T


def project_back(step: Tensor, left: Tensor | None, right: Tensor | None) -> Tensor:
    """Return a projected step at full size.

    Args:
        step: As `project` gave it.
        left: (m, r) or `None`.
        right: (r, n) or `None`.

    Returns:
        (m, n).
    """
    result = step if left is None else left @ step
    return result if right is None else result @ right
