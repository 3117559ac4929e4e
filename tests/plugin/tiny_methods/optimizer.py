r"""Gradient centralization: $G \leftarrow G - s\, \bar G$, with the mean over each output's gradients."""

from __future__ import annotations

from typing import ClassVar, Self

from torch import nn

from wbench.method import Context, OptimizerMethod, Paper, knob


class GradientCentralization(OptimizerMethod):
    """Takes the mean out of each output's gradient, before any optimizer's step.

    Usage:
        `GradientCentralization().attach(model, optimizer)`
    """

    id: ClassVar[str] = "gradient_centralization"
    title: ClassVar[str] = "Gradient centralization"
    vectorizes: ClassVar[bool] = True
    paper: ClassVar[Paper | None] = Paper(
        "Gradient Centralization: A New Optimization Technique for Deep Neural Networks", "Yong, Huang, Hua, Zhang", 2020,
        "2004.01461", "ECCV 2020",
    )  # fmt: skip
    topics: ClassVar[tuple[str, ...]] = ("gradients",)

    strength: float = knob(1.0, 0.0, 1.0, doc="Share of the mean that is taken out; 0: off.")

    def after_backward(self, model: nn.Module, ctx: Context | None = None) -> None:
        """Centralize the gradients of the selected layers."""
        for weight in self.weights(model).values():
            if weight.grad is not None:
                weight.grad -= self.strength * weight.grad.mean(tuple(range(1, weight.ndim)), keepdim=True)

    def null(self) -> Self | None:
        """Return it with the means left in."""
        return self.replace(strength=0.0)
