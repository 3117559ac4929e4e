"""What matrices of several layers have in common: atoms of a stack, and the rest of each by its effect on the layer's output."""

from __future__ import annotations

import torch
from torch import Tensor


def matrix_pca(weights: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the orthonormal atoms whose combinations are nearest to a stack of matrices; no mean is removed.

    Args:
        weights: (layers, rows, columns).
        count: Atoms, at most `layers`.

    Returns:
        Atoms (count, rows, columns), coefficients (layers, count), and all singular values of the stack, in the weights' dtype; the
        decomposition is of the stack itself, not of its Gram matrix, whose condition number is squared.
    """
    flat = weights.double().flatten(1)
    _, values, right = torch.linalg.svd(flat, full_matrices=False)
    atoms = right[:count]
    return tuple(part.to(weights.dtype) for part in (atoms.unflatten(1, weights.shape[1:]), flat @ atoms.T, values))  # type: ignore[return-value]


def whitening(inputs: Tensor, eps: float = 1e-6) -> Tensor:
    """Return the lower Cholesky factor of the inputs' autocorrelation, float64.

    Args:
        inputs: (..., features), at least one row.
        eps: Added to the diagonal, as a share of its mean.

    Returns:
        (features, features).
    """
    x = inputs.double().flatten(0, -2)
    moment = x.T @ x / len(x)
    ridge = eps * moment.diagonal().mean().clamp_min(torch.finfo(torch.float64).tiny)
    return torch.linalg.cholesky(moment + ridge * torch.eye(len(moment), dtype=x.dtype, device=x.device))


def whitened_svd(matrix: Tensor, factor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the decomposition whose leading part changes a layer's outputs least, among matrices of that rank.

    Args:
        matrix: (outputs, inputs).
        factor: From `whitening`, or the identity for the plain decomposition.

    Returns:
        `up` (outputs, k), singular values (k,) of `matrix @ factor`, `down` (k, inputs), float64: the best of rank r is
        `up[:, :r] @ down[:r]`.
    """
    u, s, vh = torch.linalg.svd(matrix.double() @ factor, full_matrices=False)
    down = torch.linalg.solve_triangular(factor, vh, left=False, upper=False)
    return u * s, s, down
