"""A method's step hooks in a loop that somebody else wrote."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from wbench.method.base import Method
    from wbench.method.context import Context


def run_hooks(method: Method, model: nn.Module, optimizer: torch.optim.Optimizer, ctx: Context) -> Callable[[], None]:
    """Run a method's `after_backward` before, and its `after_step` after, each step of an optimizer.

    Args:
        method: The method.
        model: The prepared model.
        optimizer: The optimizer of the loop.
        ctx: Counts the steps.

    Returns:
        A function that detaches the hooks.
    """
    if ctx.optimizer is None:
        ctx.optimizer = optimizer

    def before(*_: Any) -> None:
        method.after_backward(model, ctx)

    def after(*_: Any) -> None:
        ctx.step += 1
        method.after_step(model, ctx)

    handles = [optimizer.register_step_pre_hook(before), optimizer.register_step_post_hook(after)]

    def detach() -> None:
        for handle in handles:
            handle.remove()

    return detach
