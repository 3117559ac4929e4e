"""Tasks one after another: does a network that has learned much still learn?"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import nn

from wbench.datasets import load_digits
from wbench.knobs import knob
from wbench.recipe import Phase, Recipe
from wbench.splits import Splits, TensorSplit
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


class DigitStreams(Task):
    """A stream of classification tasks. Split `task07` is the eighth task's data; its accuracy is taken when it ends.

    `random_labels`: 256 fixed Gaussian inputs in 64 dimensions, fresh uniform labels in ten classes each task (Lyle et al.,
    2024). `permuted`: 8 x 8 digits with other pixel orders. `classes`: 8 x 8 digits, two classes at a time.

    Usage:
        `wb.train("digit_streams", wb.methods.NaP())`
    """

    id: ClassVar[str] = "digit_streams"
    title: ClassVar[str] = "A stream of small tasks"
    recipes: ClassVar[dict[str, Recipe]] = {
        "smoke": _BASE.replace(phases=stream(6, 10)),
        "cpu": _BASE,
        "gpu": _BASE.replace(phases=stream(200, 300), lr=1e-3),
    }

    stream_of: Literal["random_labels", "permuted", "classes"] = knob("random_labels", doc="What changes from task to task.")
    tasks: int = knob(60, 1, 1000, scale="log", unit="tasks", doc="Tasks in the stream; a recipe may use fewer.")
    hidden: tuple[int, ...] = knob((64, 64), 1, 16384, doc="Hidden sizes of the MLP.")

    def data(self, seed: int) -> Splits:
        rng = torch.Generator().manual_seed(seed)
        parts = {f"task{index:02d}": self._part(index, rng) for index in range(self.tasks)}
        last = parts[f"task{self.tasks - 1:02d}"]
        return Splits({**parts, "train": last, "test": last})

    def _part(self, index: int, rng: torch.Generator) -> TensorSplit:
        if self.stream_of == "random_labels":
            x = torch.randn(256, 64, generator=torch.Generator().manual_seed(0))
            return TensorSplit(x, torch.randint(10, (256,), generator=rng))
        images, labels = load_digits()
        x, y = torch.from_numpy(images).div(16.0).flatten(1), torch.from_numpy(labels)
        if self.stream_of == "permuted":
            return TensorSplit(x[:, torch.randperm(64, generator=rng)], y)
        pair = torch.randperm(10, generator=rng)[:2]
        keep = (y == pair[0]) | (y == pair[1])
        return TensorSplit(x[keep], y[keep])

    def model(self, seed: int) -> nn.Module:
        return image_model("mlp", 8, 10, seed, self.hidden)
