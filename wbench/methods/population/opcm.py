r"""OPCM: Merging Models on the Fly Without Retraining: A Sequential Approach to Scalable Continual Model Merging.

Anke Tang, Enneng Yang, Li Shen, Yong Luo, Han Hu, Bo Du, Dacheng Tao, 2025, arXiv:2501.09522.

Models fine-tuned from one base arrive one at a time. Of each one's change of a linear weight, what lies in the dominant
singular directions of the merged change so far is removed; the rest is added, and the sum of all is rescaled so that its
distance from the base stays that of an average single model:

$$ \tau(M_t) = \frac{\lambda_{t-1} \tau(M_{t-1}) + \tilde\tau_t}{\lambda_t}, \qquad
   \lambda_t = \frac{t\, \lVert \lambda_{t-1} \tau(M_{t-1}) + \tilde\tau_t \rVert}{\sum_{i \le t} \lVert \tau_i \rVert} $$

$$ \tilde D = U \tilde P V^\top, \qquad \Delta = U \Sigma V^\top, \qquad P = U^\top D V, \qquad
   \tilde P_{ij} = 0 \text{ where } i = j \text{ or } i, j < c $$

$\tau$: difference from the base, all parameters flattened; $\Delta, D$: merged and new change of one weight, $m \times n$;
$c$: leading directions whose cumulative share of $\sum_i s_i$ is at most $\alpha$. Biases, norms, embeddings and (by
default) convolutions are added without projection.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from wbench.errors import FitError
from wbench.method import Context, Paper, knob
from wbench.methods.population.merging import Fold, Merging
from wbench.ops.taskvector import CONV, Vector, distance, matrices, norm, project_out

Project = Callable[[str, Tensor, Tensor], Tensor]


class RescaledSum(Fold):
    """The sum of updates over a divisor that keeps the distance from the base at the mean of the models' own distances.

    State: the base and the merged weights, three numbers.

    Args:
        base: The base's parameters.
        who: The method's id, for messages.
        project: `(name, update, merged change) -> update`; default: the update as it is.
        norm_rule: Else the divisor is the number of models.
    """

    def __init__(self, base: Vector, who: str, project: Project | None = None, norm_rule: bool = True) -> None:
        self.base, self.who, self.project, self.norm_rule = base, who, project, norm_rule
        self.merged: Vector = {}
        self.divisor = 1.0

    def add(self, vector: Vector) -> dict[str, float]:
        """Take in a model's parameters.

        Args:
            vector: Name to tensor.

        Returns:
            norm, mean_norm, divisor, distance and removed: the share of the update's squared norm that was projected out.

        Raises:
            FitError: If the sum is zero, so that it cannot be rescaled.
        """
        own = distance(vector, self.base)
        self.counted(own)
        if self.count == 1:
            self.merged = {name: value.clone() for name, value in vector.items()}
            return self._row(own, own, 0.0)
        kept = 0.0
        for name, value in vector.items():
            update, change = value - self.base[name], self.merged[name] - self.base[name]
            if self.project is not None:
                update = self.project(name, update, change)
            kept += norm({name: update}) ** 2
            self.merged[name] = self.divisor * change + update  # the sum, until it is divided below
        total = norm(self.merged)
        if total == 0 and self.norm_rule:
            raise FitError(
                f"{self.who}: the merged task vector is zero after {self.count} models, so it has no direction to rescale; "
                "leave out models that equal the base or undo each other"
            )
        self.divisor = total / self.mean_norm if self.norm_rule else float(self.count)
        for name, value in self.merged.items():
            self.merged[name] = self.base[name] + value / self.divisor
        return self._row(own, total / self.divisor, 1.0 - kept / own**2 if own else 0.0)

    def _row(self, own: float, away: float, removed: float) -> dict[str, float]:
        row = {"norm": own, "mean_norm": self.mean_norm, "divisor": self.divisor}
        return {**row, "distance": away, "removed": removed}

    def weights(self) -> Vector:
        """Return the merged parameters."""
        return self.merged


class OPCM(Merging):
    """Folds models into one as they arrive; memory does not grow with their number.

    Usage:
        `merged = OPCM().combine({"cars": a, "birds": b}, base=pretrained).models[0]`, or
        `wb.train(task, OPCM(), members=zoo, references={"base": zoo.base})` with a task to evaluate on.
    """

    id: ClassVar[str] = "opcm"
    title: ClassVar[str] = "OPCM: continual merging by orthogonal projection"
    paper: ClassVar[Paper | None] = Paper(
        "Merging Models on the Fly Without Retraining: A Sequential Approach to Scalable Continual Model Merging",
        "Tang, Yang, Shen, Luo, Hu, Du, Tao", 2025, "2501.09522", "NeurIPS 2025",
    )  # fmt: skip
    topics: ClassVar[tuple[str, ...]] = ("model merging", "continual learning", "task vectors")
    fidelity: ClassVar[Literal["paper", "code", "inferred"]] = "code"
    picture: ClassVar[str] = "wbench.plots:merging"

    alpha: float = knob(0.5, 0.0, 0.99, doc="Share of the singular values' sum that counts as occupied; below 1.")
    shuffle_order: bool = knob(True, doc="Models arrive in random order; else as given.")
    seed: int | None = knob(None, 0, 2**31 - 1, slider=(0, 20), doc="Decides that order; none: the run's seed.")
    keep_cross: bool = knob(
        True, doc="Keep parts of which one side only is occupied (as the code; the paper drops them)."
    )
    zero_diagonal: bool = knob(True, doc="Remove what goes along the merged change's own singular pairs.")
    null_diagonal: Literal["remove", "keep"] = knob("remove", doc="The same where the singular value is zero.")
    conv: bool = knob(False, doc="Project convolutions, too, as out x rest matrices.")
    norm_rule: bool = knob(True, doc="Keep the mean distance from the base; else divide by the number of models.")

    def arrival(self, roles: list[str], ctx: Context) -> list[str]:
        if not self.shuffle_order:
            return roles
        rng = ctx.rng if self.seed is None else torch.Generator().manual_seed(self.seed)
        return [roles[index] for index in torch.randperm(len(roles), generator=rng).tolist()]

    def fold(self, model: nn.Module, base: Vector) -> Fold:
        if self.alpha == 0 and not self.zero_diagonal:
            return RescaledSum(base, self.id, None, self.norm_rule)
        chosen = matrices(model, (nn.Linear, *CONV) if self.conv else (nn.Linear,))

        def project(name: str, update: Tensor, merged: Tensor) -> Tensor:
            if name not in chosen:
                return update
            flat = project_out(
                update.flatten(1), merged.flatten(1), self.alpha, keep_cross=self.keep_cross,
                zero_diagonal=self.zero_diagonal, null_diagonal=self.null_diagonal == "keep",
            )  # fmt: skip
            return flat.view_as(update)

        return RescaledSum(base, self.id, project, self.norm_rule)

    def null(self) -> Self | None:
        """Return it without projection and norm rule: the plain average of the models."""
        return self.replace(alpha=0.0, zero_diagonal=False, norm_rule=False)
