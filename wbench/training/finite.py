"""Noticing the step and the layer in which training ceases to be finite."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from wbench.errors import WBenchError
from wbench.method import Context
from wbench.splits import Batch


class Diverged(WBenchError):
    """Loss or weights are no longer finite. An outcome of a run, which is kept, not a fault of the program."""


def check_loss(loss: Tensor, model: nn.Module, batch: Batch, ctx: Context) -> float:
    """Return the loss as a number.

    Args:
        loss: Scalar.
        model: Searched for the first layer whose output is not finite.
        batch: The batch that gave the loss.
        ctx: The run.

    Returns:
        The value.

    Raises:
        Diverged: If it is NaN or infinite.
    """
    value = float(loss.detach())
    if not math.isfinite(value):
        where = first_bad_output(model, batch)
        raise Diverged(f"loss became {value} at step {ctx.step + 1} (phase {ctx.phase}); first in {where}")
    return value


def check_weights(model: nn.Module, ctx: Context) -> None:
    """Look at all weights after a step.

    Args:
        model: The model.
        ctx: The run.

    Raises:
        Diverged: If one is NaN or infinite.
    """
    params = [param for param in model.parameters() if param.requires_grad and param.is_floating_point()]
    if not params:
        return
    total = torch.stack(torch._foreach_norm([param.detach() for param in params])).sum()
    if math.isfinite(float(total)):
        return
    for name, param in model.named_parameters():
        bad = int((~torch.isfinite(param)).sum())
        if bad:
            raise Diverged(
                f"weights became NaN or inf at step {ctx.step}; first in '{name}' ({bad} of {param.numel()} values)"
            )


def first_bad_output(model: nn.Module, batch: Batch) -> str:
    """Return, in words, the first layer that gives NaN or inf on a batch.

    Args:
        model: The model.
        batch: Inputs first.

    Returns:
        E.g. `layer 'blocks.1.linear' (output)`.
    """
    found: list[str] = []

    def hook(name: str) -> Any:
        def look(_: nn.Module, args: Any, output: Any) -> None:
            if not found and isinstance(output, Tensor) and not torch.isfinite(output).all():
                inputs = [part for part in args if isinstance(part, Tensor) and part.is_floating_point()]
                side = "input" if any(not torch.isfinite(part).all() for part in inputs) else "output"
                found.append(f"layer '{name or type(model).__name__}' ({side})")

        return look

    handles = [module.register_forward_hook(hook(name)) for name, module in model.named_modules()]
    try:
        with torch.no_grad():
            model(batch[0])
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else "the loss itself (all layers' outputs are finite)"
