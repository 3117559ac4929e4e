"""Sharing a budget among layers: ranks by the shape of their spectra, levels and options by the loss that they leave."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from wbench.errors import FitError


def leading_energy(singular_values: Tensor, rank: int) -> float:
    """Return the share of a spectrum's energy that its leading part holds.

    Args:
        singular_values: Descending, (count,).
        rank: Size of the leading part.

    Returns:
        Sum of the leading squares over the sum of all, in [0, 1].
    """
    squares = singular_values.double().square()
    return float(squares[:rank].sum() / squares.sum())


def thirds(energies: Mapping[str, float], mean_rank: int, limits: Mapping[str, int]) -> dict[str, int]:
    """Give the third of the layers with the flattest spectra twice the mean rank, the third with the steepest half of it.

    Args:
        energies: Layer name to leading energy; low is flat.
        mean_rank: Mean rank of the budget.
        limits: Layer name to the largest rank it can take.

    Returns:
        Layer name to rank, at least 1 and within its limit; the sum is at most `mean_rank` times the number of layers.
    """
    order = sorted(energies, key=lambda name: energies[name])
    third = len(order) // 3
    ranks = {}
    for place, name in enumerate(order):
        factor = 2.0 if place < third else 0.5 if place >= len(order) - third else 1.0
        ranks[name] = max(1, min(limits[name], int(factor * mean_rank)))
    middle = (len(order) - 1) / 2
    return _within(ranks, sorted(order, key=lambda name: abs(order.index(name) - middle)), mean_rank * len(order))


def proportional(energies: Mapping[str, float], mean_rank: int, limits: Mapping[str, int]) -> dict[str, int]:
    """Give each layer a rank in proportion to the energy that lies outside its leading part.

    Args:
        energies: As in `thirds`.
        mean_rank: As in `thirds`.
        limits: As in `thirds`.

    Returns:
        As `thirds`.
    """
    total = sum(1.0 - energy for energy in energies.values())
    budget = mean_rank * len(energies)
    shares = {name: (1.0 - energy) / total if total > 0 else 1.0 / len(energies) for name, energy in energies.items()}
    ranks = {name: max(1, min(limits[name], round(budget * share))) for name, share in shares.items()}
    return _within(ranks, sorted(ranks, key=lambda name: -ranks[name]), budget)


def greedy(spectra: Mapping[str, Tensor], costs: Mapping[str, int], budget: int) -> dict[str, int]:
    """Give ranks one at a time to the matrix with the largest squared singular value not yet kept, per number that it costs.

    Args:
        spectra: Name to singular values, descending.
        costs: Name to the numbers that one rank takes.
        budget: Numbers in all; a matrix whose next rank no longer fits is passed over.

    Returns:
        Name to rank, from 0.
    """
    gains = [
        (float(value) ** 2 / costs[name], -place, name)
        for name, values in spectra.items()
        for place, value in enumerate(values)
    ]
    ranks, left = dict.fromkeys(spectra, 0), budget
    for _, place, name in sorted(gains, reverse=True):
        if costs[name] <= left and ranks[name] == -place:
            ranks[name] += 1
            left -= costs[name]
    return ranks


def _within(ranks: dict[str, int], order: list[str], budget: int) -> dict[str, int]:
    if budget < len(ranks):
        raise FitError(f"a budget of {budget} in all cannot give each of {len(ranks)} layers a rank of 1")
    while sum(ranks.values()) > budget:
        for name in order:
            if sum(ranks.values()) > budget and ranks[name] > 1:
                ranks[name] -= 1
    return ranks


def level_order(scores: Sequence[Sequence[float]]) -> list[tuple[int, int]]:
    """Return the order in which layers move up level by level, within a level the one first whose step leaves the least loss.

    Args:
        scores: For each step from one level to the next, each layer's loss when it alone takes it. NaN takes the next step's
            score of the same layer plus the largest of its own step.

    Returns:
        (layer, its level then, from 2), each once; ties keep the order of layers.

    Raises:
        FitError: If a score of the last step is NaN, or all of a step.
    """
    filled: list[list[float]] = []
    for row in reversed(scores):
        finite = [score for score in row if not math.isnan(score)]
        if len(finite) < len(row) and not (finite and filled):
            raise FitError("the calibration loss is NaN; check the model and the calibration data")
        after = filled[-1] if filled else row
        filled.append([after[i] + max(finite) if math.isnan(score) else score for i, score in enumerate(row)])
    levels = enumerate(reversed(filled), start=2)
    return [(layer, level) for level, row in levels for layer in sorted(range(len(row)), key=row.__getitem__)]


def cheapest_options(losses: Sequence[Sequence[float]], sizes: Sequence[Sequence[float]], budget: float) -> list[int]:
    """Choose one option for each layer, so that the sum of losses is least and the sum of sizes within a budget; exact.

    The integer programme of arXiv:2006.10518, section 3.2: losses are taken to add up.

    Args:
        losses: For each layer, the loss of each option, finite.
        sizes: For each layer, the size of each option.
        budget: Largest sum of sizes.

    Returns:
        Index of the option of each layer.

    Raises:
        FitError: If not even the smallest options fit, or the solver gives up.
    """
    import numpy as np
    from scipy.optimize import Bounds, LinearConstraint, milp

    cost, size = np.concatenate([np.asarray(row, float) for row in losses]), np.concatenate([*map(np.asarray, sizes)])
    least = sum(min(row) for row in sizes)
    if least > budget:
        raise FitError(f"no allocation fits: the smallest options take {least:g}, the budget is {budget:g}")
    owner = np.repeat(np.arange(len(losses)), [len(row) for row in losses])
    one = (owner == np.arange(len(losses))[:, None]).astype(float)
    scale = float(np.abs(cost).max()) or 1.0  # the solver's tolerances are absolute
    rules = [LinearConstraint(one, 1, 1), LinearConstraint(size[None] / budget, -np.inf, 1.0)]
    found = milp(
        cost / scale, constraints=rules, bounds=Bounds(0, 1), integrality=np.ones_like(cost), options={"mip_rel_gap": 0.0}
    )  # fmt: skip
    if found.x is None:
        raise FitError(f"no allocation was found: {found.message}")
    return [int(found.x[owner == layer].argmax()) for layer in range(len(losses))]


def spectrum_of(weight: Tensor) -> Tensor:
    """Return a weight's singular values, descending, in float32 at least.

    Args:
        weight: (rows, columns).

    Returns:
        (min(rows, columns),).
    """
    return torch.linalg.svdvals(weight if weight.dtype == torch.float64 else weight.float())
