"""A linear student that must become a linear teacher: how many directions can a weight learn in?"""

from __future__ import annotations

from collections import OrderedDict
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from wbench.errors import DataError
from wbench.knobs import knob
from wbench.recipe import Recipe
from wbench.splits import Batch, GeneratedSplit, Split, Splits
from wbench.task import Infer, Task

RANK_TOLERANCE = 1e-3  # singular values of W - W0 below this share of the largest do not count
_BASE = Recipe(optimizer="adam", lr=0.05, schedule="cosine", batch_size=128, steps=1500)


class TeacherSplit(GeneratedSplit):
    """Fresh samples of a teacher at each step, and a fixed sample for evaluation.

    Args:
        teacher: W*, (outputs, inputs).
        start: W0, the same shape.
        seed: Decides the fixed sample.
    """

    def __init__(self, teacher: Tensor, start: Tensor, seed: int) -> None:
        self.teacher, self.start = teacher, start
        super().__init__(self._sample, self._sample(256, torch.Generator().manual_seed(seed)))

    def _sample(self, size: int, rng: torch.Generator) -> Batch:
        x = torch.randn(size, self.teacher.shape[1], generator=rng)
        return x, x @ self.teacher.T


class LinearTeacher(Task):
    r"""Regress $y = W^* x$, $x \sim N(0, I)$, starting from $W_0$; both matrices have entries $N(0, 1 / inputs)$.

    Metrics beside `loss`: `excess`, $\lVert W - W^* \rVert_F^2 / \lVert W_0 - W^* \rVert_F^2$, and `rank`, the
    numerical rank of $W - W_0$. $W$ is what the model does to the unit vectors, so that adapters count.

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
        """Return train, valid and test: inputs (samples, inputs), outputs (samples, outputs)."""
        teacher, start = self.matrices(seed)
        names = ("train", "valid", "test")
        return Splits({name: TeacherSplit(teacher, start, 4 * seed + 1 + index) for index, name in enumerate(names)})

    def model(self, seed: int) -> nn.Module:
        """Return one bias-free layer, `linear`, at W0: (samples, inputs) -> (samples, outputs)."""
        linear = nn.utils.skip_init(nn.Linear, self.inputs, self.outputs, bias=False)
        with torch.no_grad():
            linear.weight.copy_(self.matrices(seed)[1])
        return nn.Sequential(OrderedDict(linear=linear))

    def metrics(
        self, model: nn.Module, split: Split, infer: Infer, items: dict[str, Tensor] | None = None
    ) -> dict[str, float]:
        """Evaluate on one split.

        Args:
            model: The model.
            split: A split of this task.
            infer: `batch -> output`.
            items: Filled with per-sample losses, when given.

        Returns:
            `loss`, `excess` and `rank`.

        Raises:
            DataError: If a method put other data in place of the split, whose teacher is then unknown.
        """
        metrics = super().metrics(model, split, infer, items)
        if not isinstance(split, TeacherSplit):
            raise DataError(f"{self.id}: the excess needs the teacher of a TeacherSplit, got {type(split).__name__}")
        teacher, start = split.teacher.double(), split.start.double()
        final = infer((torch.eye(self.inputs),)).T.double()
        metrics["excess"] = float((final - teacher).square().sum() / (start - teacher).square().sum())
        metrics["rank"] = float(torch.linalg.matrix_rank(final - start, rtol=RANK_TOLERANCE))
        return metrics
