"""Sharing a budget among layers: ranks by the shape of their spectra."""

from __future__ import annotations

from collections.abc import Mapping

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


def spectrum_of(weight: Tensor) -> Tensor:
    """Return a weight's singular values, descending, in float32 at least.

    Args:
        weight: (rows, columns).

    Returns:
        (min(rows, columns),).
    """
    return torch.linalg.svdvals(weight if weight.dtype == torch.float64 else weight.float())
