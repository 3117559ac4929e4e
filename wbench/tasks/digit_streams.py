"""Tasks one after another: does a network that has learned much still learn?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import ClassVar, Literal

import torch
from torch import nn

from wbench.datasets import load_digits
from wbench.knobs import knob
from wbench.recipe import Phase, Recipe
from wbench.splits import Batch, Split, Splits, TensorSplit, tensors_checksum
from wbench.task import Task
from wbench.tasks._images import image_model


def stream(tasks: int, steps: int) -> tuple[Phase, ...]:
    """Return the phases of a stream; the optimizer's state is carried over.

    Args:
        tasks: How many.
        steps: Optimizer steps each.

    Returns:
        Phases named `task00`, `task01`, ...
    """
    return tuple(Phase(name=f"task{index:02d}", steps=steps) for index in range(tasks))


_BASE = Recipe(optimizer="adam", lr=5e-3, batch_size=256, phases=stream(60, 30))


class Stage(Split):
    """One task of a stream: trained on one part, evaluated on another.

    Args:
        train: Gives the training batches.
        held: Is evaluated on; its length is the stage's.
    """

    def __init__(self, train: TensorSplit, held: TensorSplit) -> None:
        self.train, self.held = train, held

    def __len__(self) -> int:
        return len(self.held)

    def batches(self, batch_size: int, rng: torch.Generator) -> Iterator[Batch]:
        """Yield shuffled batches of the training part for ever."""
        yield from self.train.batches(batch_size, rng)

    def sequential(self, batch_size: int) -> Iterator[Batch]:
        """Yield the held-out part once, in order."""
        yield from self.held.sequential(batch_size)

    def checksum(self) -> str:
        """Return a SHA-256 of both parts (first 16 hex digits)."""
        return tensors_checksum((*self.train.tensors, *self.held.tensors))


class DigitStreams(Task):
    """A stream of classification tasks. Split `task07` is the eighth task's data; its accuracy is taken when it ends.

    `random_labels`: 256 fixed Gaussian inputs in 64 dimensions, fresh uniform labels in ten classes each task (Lyle et
    al., 2024); the accuracy is on the labels that were trained, so `train` and `test` are the last task's data both.
    `permuted`: 8 x 8 digits, a pixel order each task. `classes`: 8 x 8 digits, two classes at a time. Of these a fifth
    is held out, and the accuracy is on that; `train` and `test` are the last task's two parts.

    Usage:
        `wb.train("digit_streams", wb.methods.NaP())`
    """

    id: ClassVar[str] = "digit_streams"
    title: ClassVar[str] = "A stream of small tasks"
    recipes: ClassVar[dict[str, Recipe]] = {
        "smoke": _BASE.replace(phases=stream(60, 4)),
        "cpu": _BASE,
        "gpu": _BASE.replace(phases=stream(60, 300), lr=1e-3),
    }

    stream_of: Literal["random_labels", "permuted", "classes"] = knob("random_labels", doc="What changes.")
    tasks: int = knob(60, 1, 1000, scale="log", unit="tasks", doc="Tasks in the stream, a phase of the recipe each.")
    hidden: tuple[int, ...] = knob((64, 64), 1, 16384, doc="Hidden sizes of the MLP.")

    def recipe(self, scale: str = "cpu") -> Recipe:
        """Return the recipe of a scale, with one phase a task of this stream.

        Args:
            scale: `smoke`, `cpu` or `gpu`.
        """
        recipe = super().recipe(scale)
        return recipe.replace(phases=stream(self.tasks, recipe.phases[0].steps))

    def data(self, seed: int) -> Splits:
        """Return `task00`, `task01`, ... and the last one's `train` and `test`: (samples, 64), classes (samples,)."""
        rng = torch.Generator().manual_seed(seed)
        part = self._random_labels if self.stream_of == "random_labels" else self._digits(rng)
        stages = {f"task{index:02d}": part(rng) for index in range(self.tasks)}
        last = stages[f"task{self.tasks - 1:02d}"]
        return Splits({**stages, "train": last.train, "test": last.held})

    @staticmethod
    def _random_labels(rng: torch.Generator) -> Stage:
        x = torch.randn(256, 64, generator=torch.Generator().manual_seed(0))
        both = TensorSplit(x, torch.randint(10, (256,), generator=rng))
        return Stage(both, both)

    def _digits(self, rng: torch.Generator) -> Callable[[torch.Generator], Stage]:
        images, labels = load_digits()
        order = torch.randperm(len(labels), generator=rng)
        x, y = torch.tensor(images).div(16.0).flatten(1)[order], torch.tensor(labels)[order]
        held = torch.arange(len(y)) < len(y) // 5

        def part(rng: torch.Generator) -> Stage:
            if self.stream_of == "permuted":
                inputs, keep = x[:, torch.randperm(64, generator=rng)], torch.ones_like(held)
            else:
                inputs, keep = x, torch.isin(y, torch.randperm(10, generator=rng)[:2])
            return Stage(*(TensorSplit(inputs[keep & side], y[keep & side]) for side in (~held, held)))

        return part

    def model(self, seed: int) -> nn.Module:
        """Return the MLP: (samples, 64) -> (samples, 10)."""
        return image_model("mlp", 8, 10, seed, self.hidden)
