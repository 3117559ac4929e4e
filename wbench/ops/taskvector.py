"""Arithmetic on the weights of models that share a base: named vectors, task vectors, trimming, signs, projection.

A vector is a mapping from parameter name to tensor; the parameters of a module that share a tensor appear once. Buffers
(running statistics, masks) are no part of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from wbench.errors import FitError

Vector = dict[str, Tensor]
CONV: tuple[type[nn.Module], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def parameters(model: nn.Module, device: torch.device | None = None) -> Vector:
    """Return a model's floating parameters, detached, in float32 at least; a tied tensor once, under its first name.

    Args:
        model: The model.
        device: Where to; default: where they are.

    Returns:
        Name to tensor; those that need no conversion share the model's memory.
    """
    found = {}
    for name, param in model.named_parameters():
        if param.is_floating_point():
            found[name] = param.detach().to(device, torch.promote_types(param.dtype, torch.float32))
    return found


def matching(vector: Mapping[str, Tensor], base: Mapping[str, Tensor], who: str, whose: str) -> None:
    """Refuse a vector whose names or shapes differ from the base's.

    Args:
        vector: Of a model.
        base: Of what it is compared with.
        who: The method's id, for the message.
        whose: What model it is, for the message.

    Raises:
        FitError: At the first name that one of them lacks, or that has another shape.
    """
    for name in [*base, *(name for name in vector if name not in base)]:
        shapes = [tuple(held[name].shape) if name in held else "absent" for held in (vector, base)]
        if shapes[0] != shapes[1]:
            raise FitError(
                f"{who}: {whose} does not match the base at {name}: {shapes[0]} instead of {shapes[1]}; "
                "merging needs models of one architecture"
            )


def difference(vector: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> Vector:
    """Return the task vector, a model's weights minus the base's.

    Args:
        vector: Of the model.
        base: Of the base.

    Returns:
        Name to tensor.
    """
    return {name: value - base[name] for name, value in vector.items()}


def norm(vector: Mapping[str, Tensor]) -> float:
    """Return the Euclidean norm of all numbers together, added up in float64.

    Args:
        vector: Name to tensor.
    """
    return math.sqrt(sum(float(torch.linalg.vector_norm(value, dtype=torch.float64)) ** 2 for value in vector.values()))


def distance(vector: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> float:
    """Return the norm of a difference, one tensor at a time.

    Args:
        vector: Of a model.
        base: Of another.
    """
    return math.sqrt(sum(norm({name: value - base[name]}) ** 2 for name, value in vector.items()))


def largest(vector: Mapping[str, Tensor], share: float) -> Vector:
    """Return a vector in which only the numbers of largest magnitude are left, over all tensors together.

    Args:
        vector: Name to tensor.
        share: Which share of the numbers stays, in (0, 1]: the nearest whole count, one at least; equals of the least of them stay too.

    Returns:
        Name to tensor, zero elsewhere.
    """
    flat = torch.cat([value.abs().flatten() for value in vector.values()])
    count = min(len(flat), max(1, round(share * len(flat))))
    least = flat.kthvalue(len(flat) - count + 1).values
    return {name: torch.where(value.abs() >= least, value, 0) for name, value in vector.items()}


class SignedSums:
    """Sums of the positive and of the negative numbers of many vectors, apart: enough to elect signs in one pass.

    Attributes:
        positive: Name to the sum of positive numbers.
        negative: Name to the sum of negative numbers.
        counts: Name to how many were positive and negative, (2, ...).
    """

    def __init__(self) -> None:
        self.positive: Vector = {}
        self.negative: Vector = {}
        self.counts: Vector = {}

    def add(self, vector: Mapping[str, Tensor]) -> None:
        """Take in a vector.

        Args:
            vector: Name to tensor.
        """
        for name, value in vector.items():
            if name not in self.counts:
                self.positive[name], self.negative[name] = torch.zeros_like(value), torch.zeros_like(value)
                self.counts[name] = torch.zeros(2, *value.shape, dtype=torch.int32, device=value.device)
            self.positive[name] += value.clamp_min(0)
            self.negative[name] += value.clamp_max(0)
            self.counts[name] += torch.stack((value > 0, value < 0))

    def elected_mean(self, name: str) -> Tensor:
        """Return, at each place, the mean of the numbers that have the sign of the sum of all (zero: positive); zeros do not count.

        Args:
            name: Of a tensor.

        Returns:
            The tensor's shape; 0 where no number has that sign.
        """
        up = self.positive[name] + self.negative[name] >= 0
        chosen = torch.where(up, self.positive[name], self.negative[name])
        positive, negative = self.counts[name]
        return chosen / torch.where(up, positive, negative).clamp_min(1)


def matrices(model: nn.Module, types: tuple[type[nn.Module], ...]) -> set[str]:
    """Return the names (as in `parameters`) of the weights that layers of some types hold.

    Args:
        model: The model.
        types: E.g. `(nn.Linear,)`.

    Returns:
        Names of tensors of at least two dimensions.
    """
    held = {id(module.weight) for module in model.modules() if isinstance(module, types)}
    return {name for name, param in model.named_parameters() if id(param) in held and param.ndim >= 2}


def split_rank(values: Tensor, alpha: float) -> int:
    """Return how many leading directions have a cumulative share of the singular values that is still at most alpha.

    Args:
        values: Singular values, descending, not all zero.
        alpha: In [0, 1).
    """
    return int((values.cumsum(0) / values.sum() > alpha).to(torch.int8).argmax())


def project_out(
    update: Tensor,
    merged: Tensor,
    alpha: float,
    *,
    keep_cross: bool = True,
    zero_diagonal: bool = True,
    null_diagonal: bool = False,
) -> Tensor:
    r"""Return an update without the part that lies in the dominant singular directions of another matrix.

    With $\Delta = U\Sigma V^\top$ and $P = U^\top D V$, the block $P_{ij}$, $i, j < c$, and the diagonal of $P$ are removed, $c$
    from `split_rank`. Thin factors suffice: $\tilde D = D - \sum_i P_{ii} u_i v_i^\top - U_c (U_c^\top D V_c) V_c^\top$ plus the
    diagonal of the block, which was taken twice.

    Args:
        update: D, (m, n).
        merged: Delta, (m, n); where it is zero the update is returned as it is.
        alpha: Cumulative share of the singular values that counts as occupied, in [0, 1).
        keep_cross: Keep $P_{ij}$ where only one of i and j is below c; else D is projected off both subspaces.
        zero_diagonal: Remove the diagonal beyond the block.
        null_diagonal: Keep the diagonal where the singular value is zero to rounding, which makes the result free of the
            arbitrary choice of null vectors.

    Returns:
        (m, n).
    """
    if not bool(merged.any()):
        return update
    driver = "gesvd" if merged.is_cuda else None
    u, s, vh = torch.linalg.svd(merged, full_matrices=False, driver=driver)
    rank = split_rank(s, alpha)
    left, right = u[:, :rank], vh[:rank]
    if keep_cross:
        result = update - left @ (left.T @ update @ right.T) @ right
    else:
        result = update - left @ (left.T @ update)
        result = result - (result @ right.T) @ right
    if zero_diagonal:
        rest, other = u[:, rank:], vh[rank:]
        diagonal = ((rest.T @ update) * other).sum(1)
        if null_diagonal:
            floor = max(merged.shape) * torch.finfo(s.dtype).eps * s[0]
            diagonal = torch.where(s[rank:] > floor, diagonal, 0)
        result = result - (rest * diagonal) @ other
    return result
