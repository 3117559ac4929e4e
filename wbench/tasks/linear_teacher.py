"""A linear student that must become a linear teacher: how many directions can a weight learn in?"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from wbench.errors import FitError
from wbench.knobs import knob
from wbench.recipe import Recipe
from wbench.splits import Batch, GeneratedSplit, Split, Splits
from wbench.task import Infer, Task

RANK_TOLERANCE = 1e-3  # singular values of W - W0 below this share of the largest do not count
_BASE = Recipe(optimizer="adam", lr=0.05, schedule="cosine", batch_size=128, steps=1500)


class LinearTeacher(Task):
    r"""Regress $y = W^* x$, $x \sim N(0, I)$, from another random matrix $W_0$; both with entries $N(0, 1 / inputs)$.

    Metrics: `excess`, $\lVert W - W^* \rVert_F^2 / \lVert W_0 - W^* \rVert_F^2$, and `rank`, the numerical rank of $W - W_0$.

    Usage:
        `wb.train("linear_teacher", wb.methods.GaLore(rank=8, update_proj_gap=20))`
    """

    id: ClassVar[str] = "linear_teacher"
    title: ClassVar[str] = "Linear student and teacher"
    kind: ClassVar[Literal["classification", "regression", "tokens"]] = "regression"
    recipes: ClassVar[dict[str, Recipe]] = {
        "smoke": _BASE.replace(steps=60),
        "cpu": _BASE,
        "gpu": _BASE.replace(steps=6000),
    }

    inputs: int = knob(48, 2, 4096, scale="log", unit="features", doc="Inputs.")
    outputs: int = knob(64, 2, 4096, scale="log", unit="features", doc="Outputs.")

    def matrices(self, seed: int) -> tuple[Tensor, Tensor]:
        """Return teacher and start.

        Args:
            seed: Decides them.

        Returns:
            W* and W0, each (outputs, inputs).
        """
        rng = torch.Generator().manual_seed(seed)
        both = torch.randn(2, self.outputs, self.inputs, generator=rng) / self.inputs**0.5
        return both[0], both[1]

    def data(self, seed: int) -> Splits:
        teacher, _ = self.matrices(seed)

        def sample(size: int, rng: torch.Generator) -> Batch:
            x = torch.randn(size, self.inputs, generator=rng)
            return x, x @ teacher.T

        def part(stream: int) -> Split:
            split = GeneratedSplit(sample, sample(256, torch.Generator().manual_seed(4 * seed + stream)))
            split.seed = seed  # type: ignore[attr-defined]
            return split

        return Splits(train=part(1), valid=part(2), test=part(3))

    def model(self, seed: int) -> nn.Module:
        linear = nn.Linear(self.inputs, self.outputs, bias=False)
        with torch.no_grad():
            linear.weight.copy_(self.matrices(seed)[1])
        return linear

    def metrics(self, model: nn.Module, split: Split, infer: Infer, items: dict[str, Tensor] | None = None) -> dict[str, float]:
        metrics = super().metrics(model, split, infer, items)
        weight = getattr(model, "weight", None)
        if not isinstance(weight, Tensor):
            raise FitError(f"linear_teacher needs a model with one weight; {type(model).__name__} has none")
        teacher, start = (matrix.double() for matrix in self.matrices(split.seed))  # type: ignore[attr-defined]
        final = weight.detach().cpu().double()
        metrics["excess"] = float((final - teacher).square().sum() / (start - teacher).square().sum())
        moved = final - start
        metrics["rank"] = float(torch.linalg.matrix_rank(moved, rtol=RANK_TOLERANCE)) if bool(moved.any()) else 0.0
        return metrics
