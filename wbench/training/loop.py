"""The training loop: one model, any methods, no method by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from wbench.errors import CompositionError
from wbench.method import Context
from wbench.splits import Batch, Split
from wbench.training.finite import Diverged, check_loss, check_weights
from wbench.training.optim import make_optimizer, make_schedule

LossFunction = Callable[[nn.Module, Batch, Context], Tensor]


class Watcher(Protocol):
    """What the loop tells as it goes."""

    def before_update(self, model: nn.Module, optimizer: torch.optim.Optimizer, ctx: Context) -> None:
        """Gradients are clipped, the step is about to be taken."""

    def after_update(self, model: nn.Module, optimizer: torch.optim.Optimizer, ctx: Context, loss: float) -> None:
        """The step was taken; `ctx.step` counts it."""

    def after_phase(self, model: nn.Module, ctx: Context) -> None:
        """A phase has ended."""


def fit(model: nn.Module, ctx: Context, loss_of: LossFunction, watcher: Watcher, order: torch.Generator) -> None:
    """Train a prepared model through all phases of the recipe.

    Args:
        model: The prepared model, on `ctx.device`.
        ctx: The run; its `step` and `phase` are advanced.
        loss_of: `(model, batch, ctx) -> loss`, per sample or scalar.
        watcher: Is told of every step.
        order: Decides the data order.

    Raises:
        Diverged: When the loss or a weight is not finite; says at which step and in which layer it began.
    """
    methods, recipe = ctx.methods, ctx.recipe
    optimizer, schedule = None, None
    for index, phase in enumerate(recipe.plan):
        ctx.phase = phase.name
        stream = phase_data(ctx).batches(recipe.batch_size, order)
        if optimizer is None or schedule is None or not phase.carry:
            ctx.recipe = recipe.in_phase(index)
            optimizer = ctx.optimizer = make_optimizer(model, ctx)
            schedule = make_schedule(optimizer, ctx.recipe, recipe.horizon(index))
        model.train()
        for _ in range(phase.steps):
            batch = tuple(part.to(ctx.device, non_blocking=True) for part in next(stream))
            for method in methods:
                method.before_step(model, batch, ctx)
            optimizer.zero_grad(set_to_none=True)
            loss = objective(model, batch, ctx, loss_of)
            value = check_loss(loss, model, batch, ctx)
            loss.backward()
            for method in methods:
                method.after_backward(model, ctx)
            if recipe.clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
            watcher.before_update(model, optimizer, ctx)
            optimizer.step()
            schedule.step()
            ctx.step += 1
            for method in methods:
                method.after_step(model, ctx)
            check_weights(model, ctx)
            watcher.after_update(model, optimizer, ctx, value)
        watcher.after_phase(model, ctx)


def objective(model: nn.Module, batch: Batch, ctx: Context, loss_of: LossFunction) -> Tensor:
    """Return what is minimised: the mean loss of a batch and the methods' penalties, a scalar.

    Args:
        model: The prepared model.
        batch: The step's batch.
        ctx: The run.
        loss_of: `(model, batch, ctx) -> loss`, per sample or scalar.
    """
    loss = loss_of(model, batch, ctx).mean()
    for method in ctx.methods:
        loss = loss + method.penalty(model, ctx)
    return loss


def loss_function(ctx: Context) -> LossFunction:
    """Return the loss of a run: that of the method which brings one, else the task's.

    Args:
        ctx: The run.

    Raises:
        CompositionError: If the run has no task.
    """
    owner = next((method for method in ctx.methods if method.overrides("loss")), None)
    task = ctx.task
    if owner is not None:
        return owner.loss
    if task is None:
        raise CompositionError("training needs a task")
    return lambda model, batch, ctx: task.loss(model(batch[0]), batch)


def phase_data(ctx: Context) -> Split:
    """Return what the current phase trains on: the split of its name, else `train`.

    Args:
        ctx: The run.
    """
    return ctx.data(ctx.phase if ctx.phase in ctx.splits else "train")


__all__ = ["Diverged", "LossFunction", "Watcher", "fit", "loss_function", "objective", "phase_data"]
