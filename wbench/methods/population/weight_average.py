r"""Weight averaging: Model soups: averaging weights of multiple fine-tuned models (the uniform soup).

Mitchell Wortsman and others, 2022, arXiv:2203.05482. As models arrive one at a time, $M_t = M_{t-1} + (\theta_t - M_{t-1}) / t$: the plain mean.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from torch import nn

from wbench.method import Paper
from wbench.methods.population.merging import Fold, Merging
from wbench.ops.taskvector import Vector, distance


class Mean(Fold):
    """The mean of what has arrived.

    Args:
        base: The base's parameters; empty: distances are not known.
    """

    def __init__(self, base: Vector) -> None:
        self.base = base
        self.mean: Vector = {}

    def add(self, vector: Vector) -> dict[str, float]:
        """Take in a model's parameters.

        Args:
            vector: Name to tensor.

        Returns:
            norm, mean_norm, divisor (the number of models) and distance.
        """
        own = distance(vector, self.base) if self.base else math.nan
        self.counted(own)
        for name, value in vector.items():
            mean = self.mean.get(name)
            self.mean[name] = value.clone() if mean is None else mean.lerp(value, 1 / self.count)
        away = distance(self.mean, self.base) if self.base else math.nan
        return {"norm": own, "mean_norm": self.mean_norm, "divisor": float(self.count), "distance": away}

    def weights(self) -> Vector:
        """Return the merged parameters."""
        return self.mean


class WeightAverage(Merging):
    """Averages the members' weights. Needs no base.

    Usage:
        `merged = WeightAverage().combine({"cars": a, "birds": b}).models[0]`
    """

    id: ClassVar[str] = "weight_average"
    title: ClassVar[str] = "Weight averaging (uniform soup)"
    paper: ClassVar[Paper | None] = Paper(
        "Model soups: averaging weights of multiple fine-tuned models improves accuracy without increasing inference time",
        "Wortsman, Ilharco, Gadre and others", 2022, "2203.05482", "ICML 2022",
    )  # fmt: skip
    topics: ClassVar[tuple[str, ...]] = ("model merging",)
    kind: ClassVar[Literal["method", "baseline"]] = "baseline"
    picture: ClassVar[str] = "wbench.plots:merging"
    needs_base: ClassVar[bool] = False

    def fold(self, model: nn.Module, base: Vector) -> Fold:
        return Mean(base)
