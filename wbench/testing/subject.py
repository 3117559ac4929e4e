"""A method under test: put on a small model, and trained for a few steps."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from wbench.errors import WBenchError
from wbench.method import Context, Method
from wbench.recipe import Recipe
from wbench.splits import Batch, Splits, TensorSplit
from wbench.task import Task
from wbench.training.loop import fit
from wbench.training.recorder import Recorder

STEPS = 6


class ContractError(WBenchError, AssertionError):
    """A method does not keep the contract; the message says which part and how it differs."""


def small_model(seed: int = 0) -> nn.Module:
    """Return the small network that methods are checked on: 16-32-32-8 with ReLU.

    Args:
        seed: Decides its weights.

    Returns:
        A `torch.fx`-traceable module in float32.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 8))


def small_batch(seed: int = 0) -> Batch:
    """Return 64 samples for `small_model`.

    Args:
        seed: Decides them.

    Returns:
        Inputs (64, 16) and classes (64,).
    """
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(64, 16, generator=rng), torch.randint(8, (64,), generator=rng)


class Subject:
    """A method with the model and the batch that it is checked on.

    Args:
        cls: The method's class.
        method: Its settings.
        model: Makes a model that the method fits.
        batch: A batch for that model.
    """

    def __init__(self, cls: type[Method], method: Method, model: Callable[[], nn.Module], batch: Batch) -> None:
        self.cls, self.method, self.model, self.batch = cls, method, model, batch
        self.recipe = method.recipe(Recipe(optimizer="adam", lr=1e-3, steps=STEPS, batch_size=len(batch[0])))

    def prepared(self, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Context, Task]:
        """Return a model with the method on it, its context, and the task.

        Args:
            dtype: Of model and batch.
        """
        batch = tuple(part.to(dtype) if part.is_floating_point() else part for part in self.batch)
        task = Task.from_arrays(*self.batch, model=self.model, test=(self.batch[0], self.batch[1]))
        splits = Splits(train=TensorSplit(*batch), test=TensorSplit(*batch), calibration=TensorSplit(*batch))
        ctx = Context(recipe=self.recipe, task=task, methods=(self.method,), total_steps=STEPS, splits=splits)
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            model = self.method.build(task, ctx) if self.method.overrides("build") else self.model()
            model = model.to(dtype)
            ctx.splits = Splits(self.method.data(ctx.splits, model, ctx))
            return self.method.prepare(model, ctx), ctx, task

    def trained(self, dtype: torch.dtype = torch.float32, method: Method | None = None) -> tuple[nn.Module, Context]:
        """Return a model after `STEPS` steps with the method on it, not yet finished, and its context.

        Args:
            dtype: Of model and batch.
            method: Another one than the subject's.
        """
        if method is not None:
            return Subject(self.cls, method, self.model, self.batch).trained(dtype)
        model, ctx, task = self.prepared(dtype)
        if not any(param.requires_grad for param in model.parameters()):
            return model, ctx
        owner = self.method if self.method.overrides("loss") else None

        def loss_of(model: nn.Module, batch: Batch, ctx: Context) -> Tensor:
            return owner.loss(model, batch, ctx) if owner else task.loss(model(batch[0]).float(), batch)

        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            fit(model, ctx, loss_of, Recorder(_Nothing(), probes=()), torch.Generator().manual_seed(0))
        return model, ctx

    def output(self, model: nn.Module, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return what a model gives for the batch.

        Args:
            model: In `dtype`.
            dtype: Of model and batch.
        """
        model.eval()
        with torch.no_grad():
            batch = tuple(part.to(dtype) if part.is_floating_point() else part for part in self.batch)
            return self.method.infer(model, batch) if self.method.overrides("infer") else model(batch[0])


class _Nothing:
    def log(self, rows: list[dict[str, Any]]) -> None:
        """Keep nothing."""

    def table(self, name: str, frame: Any) -> None:
        """Keep nothing."""


def require(holds: bool, subject: Subject, what: str) -> None:
    """Check a part of the contract.

    Args:
        holds: Whether it is kept.
        subject: The method.
        what: How it differs, for the message.

    Raises:
        ContractError: If it is not.
    """
    if not holds:
        raise ContractError(f"{subject.cls.__name__}: {what}")


def close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    """Return whether tensors are the same up to a tolerance, relative to the largest entry and at least 1.

    Args:
        a: Any shape.
        b: The same shape.
        tolerance: Largest difference.
    """
    return bool((a - b).abs().max() <= tolerance * (1.0 + b.abs().max()))
