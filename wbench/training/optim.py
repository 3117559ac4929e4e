"""From a recipe to torch's optimizer and schedule."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from wbench.errors import FitError
from wbench.method import Context
from wbench.recipe import Recipe


def recipe_optimizer(groups: list[dict[str, Any]], recipe: Recipe) -> torch.optim.Optimizer:
    """Return the optimizer that a recipe names.

    Args:
        groups: From `Context.groups`.
        recipe: The recipe.

    Returns:
        A torch optimizer.

    Raises:
        FitError: If nothing is trainable.
    """
    if not groups:
        raise FitError("no parameter is trainable: every one is frozen (requires_grad=False)")
    params = [param for group in groups for param in group["params"]]
    fused = all(param.is_floating_point() and param.device.type in {"cpu", "cuda"} for param in params)
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, fused=fused)
    kind = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, lr=recipe.lr, betas=recipe.betas, eps=recipe.eps, fused=fused)


def make_optimizer(model: nn.Module, ctx: Context) -> torch.optim.Optimizer:
    """Return the optimizer of the method that brings one, else the recipe's.

    Args:
        model: The prepared model.
        ctx: The run.

    Returns:
        A torch optimizer whose groups hold their peak learning rate.
    """
    for method in ctx.methods:
        if method.overrides("optimizer"):
            return method.optimizer(model, ctx)
    return recipe_optimizer(ctx.groups(model), ctx.recipe)


def make_schedule(optimizer: torch.optim.Optimizer, recipe: Recipe, steps: int) -> torch.optim.lr_scheduler.LambdaLR:
    """Return the recipe's schedule over a number of steps.

    Args:
        optimizer: Its groups' rates are the peaks.
        recipe: The recipe.
        steps: Length of the schedule.

    Returns:
        A torch scheduler, stepped once an optimizer step.
    """
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: recipe.lr_factor(step, steps))
