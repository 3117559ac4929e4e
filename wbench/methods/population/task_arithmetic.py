r"""Task arithmetic: Editing Models with Task Arithmetic.

Gabriel Ilharco and others, 2022, arXiv:2212.04089. The members' differences from the base are added to it, all by one
factor: $\theta_0 + \lambda \sum_t \tau_t$, $\tau_t = \theta_t - \theta_0$.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import nn

from wbench.method import Paper, knob
from wbench.methods.population.merging import Fold, Merging
from wbench.ops.taskvector import Vector, difference, distance, norm


class ScaledSum(Fold):
    """The base plus a multiple of the sum of differences from it.

    Args:
        base: The base's parameters.
        scaling: The factor.
    """

    def __init__(self, base: Vector, scaling: float) -> None:
        self.base, self.scaling = base, scaling
        self.merged = {name: value.clone() for name, value in base.items()}

    def add(self, vector: Vector) -> dict[str, float]:
        """Take in a model's parameters.

        Args:
            vector: Name to tensor.

        Returns:
            norm, mean_norm, divisor (one over the factor) and distance.
        """
        change = difference(vector, self.base)
        for name, value in change.items():
            self.merged[name].add_(value, alpha=self.scaling)
        own = norm(change)
        self.counted(own)
        divisor = 1 / self.scaling if self.scaling else float("inf")
        away = distance(self.merged, self.base)
        return {"norm": own, "mean_norm": self.mean_norm, "divisor": divisor, "distance": away}

    def weights(self) -> Vector:
        """Return the merged parameters."""
        return self.merged


class TaskArithmetic(Merging):
    """Adds the members' changes to the base, all by one factor; with `scaling=0` the base itself.

    Usage:
        `merged = TaskArithmetic(scaling=0.3).combine({"cars": a, "birds": b}, base=pretrained).models[0]`
    """

    id: ClassVar[str] = "task_arithmetic"
    title: ClassVar[str] = "Task arithmetic: the base plus scaled task vectors"
    paper: ClassVar[Paper | None] = Paper(
        "Editing Models with Task Arithmetic", "Ilharco, Ribeiro, Wortsman and others", 2022, "2212.04089", "ICLR 2023"
    )
    topics: ClassVar[tuple[str, ...]] = ("model merging", "task vectors")
    kind: ClassVar[Literal["method", "baseline"]] = "baseline"
    picture: ClassVar[str] = "wbench.plots:merging"

    scaling: float = knob(0.3, 0.0, 10.0, slider=(0.0, 1.0), doc="Factor of every task vector.")

    def fold(self, model: nn.Module, base: Vector) -> Fold:
        return ScaledSum(base, self.scaling)
