"""The task contract: what is trained on what.

A task is a frozen record of options; it gives named splits, a model, a loss, metrics, and a recipe for each of three
scales. Its subclasses live in `wbench/tasks/`, one file each; a user's own data becomes one by `Task.from_arrays` or
`Task.from_loader`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wbench.errors import DataError, KnobError
from wbench.knobs import Knobs
from wbench.recipe import Recipe
from wbench.splits import Batch, LoaderSplit, Split, Splits, TensorSplit, tensors_checksum

Scale = Literal["smoke", "cpu", "gpu"]
Infer = Callable[[Batch], Tensor]


class Task(Knobs):
    """Data, model, loss, metrics and recipes under one name. Fields of a subclass are the task's options.

    Class attributes:
        id: Name in the registry.
        title: One line.
        kind: `classification` (accuracy and cross entropy), `regression` (squared error) or `tokens` (next token).
        recipes: Recipe per scale, `smoke` (seconds, for tests), `cpu` (under a minute on two cores), `gpu`.
    """

    id: ClassVar[str] = ""
    title: ClassVar[str] = ""
    kind: ClassVar[Literal["classification", "regression", "tokens"]] = "classification"
    recipes: ClassVar[dict[str, Recipe]] = {}

    def data(self, seed: int) -> Splits:
        """Return the named splits; `train` and `test` always, `valid` where there is enough data.

        Args:
            seed: Decides sampling, noise and shuffles; same seed, same bits.

        Raises:
            DataError: Unless overridden.
        """
        raise DataError(f"task '{self.id}' has no data")

    def model(self, seed: int) -> nn.Module:
        """Return the untrained model on the CPU, in float32.

        Args:
            seed: Decides the initial weights; same seed, same bits.

        Raises:
            DataError: Unless overridden.
        """
        raise DataError(f"task '{self.id}' has no model")

    def recipe(self, scale: str = "cpu") -> Recipe:
        """Return the recipe of a scale.

        Args:
            scale: `smoke`, `cpu` or `gpu`.

        Raises:
            KnobError: For any other scale.
        """
        if scale not in self.recipes:
            raise KnobError(f"task '{self.id}': scale='{scale}' is not allowed; allowed: {', '.join(self.recipes)}")
        return self.recipes[scale]

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        """Return the loss of each sample, shape `(samples,)`.

        Args:
            output: The model's output for `batch[0]`.
            batch: Inputs and targets.
        """
        target = batch[1]
        if self.kind == "regression":
            return F.mse_loss(output, target.to(output.dtype), reduction="none").flatten(1).mean(1)
        if self.kind == "tokens":
            return F.cross_entropy(output.transpose(1, 2), target, reduction="none").mean(1)
        return F.cross_entropy(output, target, reduction="none")

    def scores(self, output: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Return per-sample scores, each of shape `(samples,)`; their means are the metrics.

        Args:
            output: What inference gave for `batch[0]`.
            batch: Inputs and targets.
        """
        scores = {"loss": self.loss(output, batch)}
        if self.kind == "classification":
            scores["accuracy"] = (output.argmax(-1) == batch[1]).to(torch.float32)
        return scores

    def metrics(
        self, model: nn.Module, split: Split, infer: Infer, items: dict[str, Tensor] | None = None
    ) -> dict[str, float]:
        """Evaluate on one split.

        Args:
            model: The model, in evaluation mode.
            split: What to evaluate on.
            infer: `batch -> output`; a method may evaluate another way than the model's forward.
            items: When given, is filled with the per-sample scores, each of shape `(samples,)`.

        Returns:
            Name to value.
        """
        parts: dict[str, list[Tensor]] = {}
        for batch in split.sequential(1000 if self.kind != "tokens" else 64):
            for name, values in self.scores(infer(batch), batch).items():
                parts.setdefault(name, []).append(values.detach().float().cpu())
        joined = {name: torch.cat(values) for name, values in parts.items()}
        if items is not None:
            items.update(joined)
        return {name: float(values.double().mean()) for name, values in joined.items()}

    def fingerprint(self) -> dict[str, Any]:
        """Return what determines the task, as JSON values: part of a run's name."""
        return {"id": self.id, **self.fields()}

    @staticmethod
    def from_arrays(
        x: Any,
        y: Any,
        *,
        model: nn.Module | Callable[[], nn.Module],
        test: tuple[Any, Any] | float = 0.2,
        loss: Callable[[Tensor, Tensor], Tensor] | None = None,
        recipe: Recipe | None = None,
        name: str = "arrays",
    ) -> Task:
        """Make a task of a user's own arrays.

        Args:
            x: Inputs `(samples, ...)`, NumPy or torch; floating inputs are taken as float32.
            y: Targets `(samples,)` of integers for classification, `(samples, ...)` of floats for regression.
            model: A module (copied, so every seed starts from its weights) or a function that makes one, called under the seed.
            test: Held-out `(x, y)`, or the share of samples to hold out (chosen by the seed).
            loss: `(output, target) -> per-sample loss`; default cross entropy for integers, squared error for floats.
            recipe: How to train; default 300 steps of AdamW at 1e-3.
            name: Shown in reports.

        Returns:
            The task.

        Raises:
            DataError: If the data is empty, not finite or of differing lengths.
        """
        full = TensorSplit(as_tensor(x), as_tensor(y))
        held = TensorSplit(as_tensor(test[0]), as_tensor(test[1])) if isinstance(test, tuple) else test
        if isinstance(held, float) and not 0.0 < held < 1.0:
            raise DataError(f"test={held} is not allowed; allowed: a share between 0 and 1, or a pair (x, y)")
        return UserTask(full, held, model, loss, recipe or Recipe(steps=300), name)

    @staticmethod
    def from_loader(
        train: Iterable[Any],
        test: Iterable[Any] | None = None,
        *,
        model: nn.Module | Callable[[], nn.Module],
        loss: Callable[[Tensor, Tensor], Tensor] | None = None,
        recipe: Recipe | None = None,
        name: str = "loader",
    ) -> Task:
        """Make a task of a user's own loader, e.g. a `torch.utils.data.DataLoader`.

        Args:
            train: Re-iterable of `(input, target)` batches; it decides order and batch size.
            test: The same for evaluation; default: evaluate on `train`.
            model: As in `from_arrays`.
            loss: As in `from_arrays`.
            recipe: As in `from_arrays`.
            name: Shown in reports; part of the run's name together with the first batch.

        Returns:
            The task.

        Raises:
            DataError: If a loader yields nothing.
        """
        held = LoaderSplit(test) if test is not None else LoaderSplit(train)
        return UserTask(LoaderSplit(train), held, model, loss, recipe or Recipe(steps=300), name)


class UserTask(Task):
    """A user's own data and model; made by `Task.from_arrays` and `Task.from_loader`."""

    id: ClassVar[str] = "user"
    title: ClassVar[str] = "A user's own data and model"
    name: str = "arrays"

    def __init__(
        self,
        full: Split,
        held: Split | float,
        model: nn.Module | Callable[[], nn.Module],
        loss: Callable[[Tensor, Tensor], Tensor] | None,
        recipe: Recipe,
        name: str,
    ) -> None:
        Knobs.__init__(self, name=name)
        target = next(iter(full.sequential(1)))[1]
        hidden = {"full": full, "held": held, "source": model, "own_loss": loss, "own_recipe": recipe}
        hidden["discrete"] = not target.is_floating_point()
        object.__setattr__(self, "_hidden", hidden)

    @property
    def hidden(self) -> dict[str, Any]:
        """Data, model source, loss and recipe; no knobs, so kept beside the fields."""
        return object.__getattribute__(self, "_hidden")

    def data(self, seed: int) -> Splits:
        full, held = self.hidden["full"], self.hidden["held"]
        if isinstance(held, Split):
            return Splits(train=full, test=held)
        order = torch.randperm(len(full), generator=torch.Generator().manual_seed(seed))
        cut = max(1, round(len(full) * held))
        if cut >= len(full):
            raise DataError(f"{len(full)} samples are too few to hold out {held:.0%}; give test=(x, y)")
        test, train = order[:cut], order[cut:]
        return Splits(
            train=TensorSplit(*(tensor[train] for tensor in full.tensors)),
            test=TensorSplit(*(tensor[test] for tensor in full.tensors)),
        )

    def model(self, seed: int) -> nn.Module:
        source = self.hidden["source"]
        if isinstance(source, nn.Module):
            return copy.deepcopy(source)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return source()

    def recipe(self, scale: str = "cpu") -> Recipe:
        recipe: Recipe = self.hidden["own_recipe"]
        return recipe.replace(steps=min(recipe.steps, 20)) if scale == "smoke" else recipe

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        if self.hidden["own_loss"] is not None:
            values = self.hidden["own_loss"](output, batch[1])
            return values if values.ndim == 0 else values.flatten(1).mean(1) if values.ndim > 1 else values
        if self.hidden["discrete"]:
            return F.cross_entropy(output.flatten(0, -2), batch[1].flatten(), reduction="none")
        return F.mse_loss(output, batch[1].to(output.dtype).view_as(output), reduction="none").flatten(1).mean(1)

    def scores(self, output: Tensor, batch: Batch) -> dict[str, Tensor]:
        loss = self.loss(output, batch)
        scores = {"loss": loss.expand(len(output)) if loss.ndim == 0 else loss}
        if self.hidden["discrete"]:
            scores["accuracy"] = (output.argmax(-1) == batch[1]).to(torch.float32).flatten()
        return scores

    def fingerprint(self) -> dict[str, Any]:
        source = self.model(0)
        splits = self.data(0)
        return {
            "id": self.id,
            "name": self.name,
            "data": splits.checksums(),
            "model": tensors_checksum(source.state_dict()),
            "architecture": repr(source),
        }


def as_tensor(values: Any) -> Tensor:
    """Return values as a tensor: floating kinds as float32, integers as int64.

    Args:
        values: Tensor, NumPy array, DataFrame or nested list of numbers.

    Returns:
        The tensor.

    Raises:
        DataError: If the values are not numbers.
    """
    try:
        tensor = (
            values if isinstance(values, Tensor) else torch.as_tensor(getattr(values, "to_numpy", lambda: values)())
        )
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"the data cannot be read as numbers: {error}; encode text and categories first") from None
    return tensor.float() if tensor.is_floating_point() else tensor.long()
