"""A method under test: put on a small model, and trained for a few steps."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from wbench.errors import WBenchError
from wbench.method import Context, Method
from wbench.recipe import Recipe
from wbench.splits import Batch, Split, Splits, TensorSplit
from wbench.task import Task
from wbench.training.loop import fit
from wbench.training.recorder import Recorder

STEPS = 6
SAMPLES = 64
NAMES = ("train", "valid", "test", "calibration")


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
    """A method with the model, the batch and the data that it is checked on.

    Args:
        cls: The method's class.
        method: Its settings.
        model: Makes a model that the method fits; default: the task's, else `small_model`.
        batch: A batch for that model; default: the first 64 samples that the task trains on, else `small_batch`.
        task: What a method that builds its own architecture builds it for; default: one of the batch.
        splits: Named data beside, or in place of, train, valid, test and calibration, which hold the batch, or the task's own.
    """

    def __init__(
        self,
        cls: type[Method],
        method: Method,
        model: Callable[[], nn.Module] | None = None,
        batch: Batch | None = None,
        task: Task | None = None,
        splits: Mapping[str, Split] | None = None,
    ) -> None:
        self.cls, self.method = cls, method
        own = task.data(0) if task is not None else Splits()
        first = batch or (next(iter(own["train"].sequential(SAMPLES))) if own else small_batch())
        self.batch: Batch = first
        self.model: Callable[[], nn.Module] = model or ((lambda: task.model(0)) if task is not None else small_model)
        self.task = task or Task.from_arrays(*first[:2], model=self.model, test=(first[0], first[1]))
        held: dict[str, Split] = dict(own) or {name: TensorSplit(*first) for name in NAMES}
        self.splits = Splits({**held, **(splits or {})})
        self.recipe = method.recipe(Recipe(optimizer="adam", lr=1e-3, steps=STEPS, batch_size=len(first[0])))

    def other(self, method: Method) -> Subject:
        """Return the same with another method.

        Args:
            method: The method.
        """
        return Subject(type(method), method, self.model, self.batch, self.task, self.splits)

    def context(self, dtype: torch.dtype = torch.float32) -> Context:
        """Return the context of a run that has not begun, the same each time.

        Args:
            dtype: Of the data, where it is held in memory (a copy of its own then) and floating.
        """
        splits = Splits({name: _in(split, dtype) for name, split in self.splits.items()})
        return Context(recipe=self.recipe, task=self.task, methods=(self.method,), total_steps=STEPS, splits=splits)

    def fresh(self, ctx: Context | None = None) -> nn.Module:
        """Return the model before the method is put on it: one that the method builds, where it does, or the model given.

        Args:
            ctx: The run.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self.method.build(self.task, ctx) if self.method.overrides("build") else self.model()

    def prepared(self, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Context]:
        """Return a model with the method on it, and its context.

        Args:
            dtype: Of model and data.
        """
        ctx = self.context(dtype)
        model = self.fresh(ctx).to(dtype)
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            ctx.splits = Splits(self.method.data(ctx.splits, model, ctx))
            return self.method.prepare(model, ctx), ctx

    def trained(self, dtype: torch.dtype = torch.float32, method: Method | None = None) -> tuple[nn.Module, Context]:
        """Return a model after `STEPS` steps with the method on it, not yet finished, and its context.

        Args:
            dtype: Of model and batch.
            method: Another one than the subject's.
        """
        if method is not None:
            return self.other(method).trained(dtype)
        model, ctx = self.prepared(dtype)
        if not any(param.requires_grad for param in model.parameters()):
            return model, ctx
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            fit(model, ctx, self.loss_of, Recorder(_Nothing(), probes=()), torch.Generator().manual_seed(0))
        return model, ctx

    def loss_of(self, model: nn.Module, batch: Batch, ctx: Context) -> Tensor:
        """Return the loss that is trained on: the method's, where it brings one, or the task's.

        Args:
            model: The prepared model.
            batch: The batch.
            ctx: The run.
        """
        if self.method.overrides("loss"):
            return self.method.loss(model, batch, ctx)
        return self.task.loss(model(batch[0]).float(), batch)

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


def _in(split: Split, dtype: torch.dtype) -> Split:
    if not isinstance(split, TensorSplit):
        return split
    return TensorSplit(
        *(part.to(dtype if part.is_floating_point() else part.dtype, copy=True) for part in split.tensors)
    )


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
