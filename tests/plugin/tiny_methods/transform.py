r"""Wanda: in each output, the weights with the smallest $|w_{ij}| \cdot \lVert x_j \rVert$ become zero."""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from wbench.method import Paper, Transform, knob


class Wanda(Transform):
    """Prunes a trained model, weighing each weight by the size of its input.

    Usage:
        `wb.train(task, Wanda(sparsity=0.5), start=run, recipe=wb.Recipe(steps=0))`
    """

    id: ClassVar[str] = "wanda"
    title: ClassVar[str] = "Wanda: pruning by weights and activations"
    paper: ClassVar[Paper | None] = Paper(
        "A Simple and Effective Pruning Approach for Large Language Models",
        "Sun, Liu, Bair, Kolter",
        2023,
        "2306.11695",
        "ICLR 2024",
    )
    topics: ClassVar[tuple[str, ...]] = ("pruning",)
    layer_types: ClassVar[tuple[type[nn.Module], ...]] = (nn.Linear,)
    calibrates: ClassVar[bool] = True

    sparsity: float = knob(0.5, 0.0, 1.0, slider=(0.0, 0.95), doc="Share of each output's weights that become zero.")

    def transform(self, module: nn.Module, inputs: Tensor | None, name: str) -> nn.Module:
        """Prune one layer in place."""
        weight: Tensor = module.weight
        sizes = inputs.flatten(0, -2).norm(dim=0) if inputs is not None else 1.0
        order = torch.argsort(weight.abs() * sizes, dim=1, stable=True)
        gone = order[:, : int(self.sparsity * weight.shape[1])]
        weight.scatter_(1, gone, 0.0)
        return module

    def null(self) -> Self | None:
        """Return it with nothing pruned."""
        return self.replace(sparsity=0.0)
