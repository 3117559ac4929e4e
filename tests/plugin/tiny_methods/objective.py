r"""Label smoothing: the target is $(1 - \epsilon)\, y + \epsilon / K$."""

from __future__ import annotations

from typing import ClassVar, Self

from torch import Tensor, nn

from wbench.method import Context, Objective, Paper, knob
from wbench.splits import Batch


class LabelSmoothing(Objective):
    """Cross entropy against softened targets.

    Usage:
        `loss = LabelSmoothing(smoothing=0.1).loss(model, (x, y)).mean()`
    """

    id: ClassVar[str] = "label_smoothing"
    title: ClassVar[str] = "Label smoothing"
    paper: ClassVar[Paper | None] = Paper(
        "Rethinking the Inception Architecture for Computer Vision",
        "Szegedy, Vanhoucke, Ioffe, Shlens, Wojna",
        2015,
        "1512.00567",
    )
    topics: ClassVar[tuple[str, ...]] = ("regularization",)

    smoothing: float = knob(
        0.1, 0.0, 1.0, slider=(0.0, 0.5), doc="Share of the target that is spread over all classes."
    )

    def loss(self, model: nn.Module, batch: Batch, ctx: Context | None = None) -> Tensor:
        """Return the loss of each sample."""
        return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none", label_smoothing=self.smoothing)

    def null(self) -> Self | None:
        """Return it with plain targets."""
        return self.replace(smoothing=0.0)
