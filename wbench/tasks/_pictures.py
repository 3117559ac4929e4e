"""What `mnist` and `fashion` share."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import torch
from torch import nn

from wbench.datasets import Images
from wbench.errors import DataError
from wbench.knobs import knob
from wbench.recipe import Recipe
from wbench.splits import Splits, TensorSplit
from wbench.task import Task
from wbench.tasks._images import image_model

_BASE = Recipe(optimizer="adam", lr=3e-3, schedule="cosine", warmup=20, batch_size=32, steps=900)


class Pictures(Task):
    """Ten classes of 28 x 28 grey images; validation: 500 of the 5,000 training images, the same for every seed."""

    recipes: ClassVar[dict[str, Recipe]] = {
        "smoke": _BASE.replace(steps=24, warmup=4, eval_every=24),
        "cpu": _BASE,
        "gpu": _BASE.replace(steps=8000, warmup=200, batch_size=256, lr=1e-3),
    }

    architecture: Literal["convnet", "resnet", "vit", "mlp"] = knob("convnet", doc="Model.")
    size: Literal["small", "large"] = knob("small", doc="Model size; large is meant for a GPU.")
    hidden: tuple[int, ...] = knob((256, 128), 1, 16384, doc="Hidden sizes of the MLP.")
    train_size: int = knob(4500, 10, 4500, unit="samples", doc="Training samples, chosen by the seed.")

    @staticmethod
    def load() -> Images:
        """Return the images.

        Raises:
            DataError: Always; a subclass says where they are.
        """
        raise DataError("this task names no images")

    def data(self, seed: int) -> Splits:
        """Return train, valid and test: images (samples, 1, 28, 28) in [0, 1], classes (samples,)."""
        held = self.load()
        x, y = _tensors(held.x_train, held.y_train)
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
        valid, rest = order[:500], order[500:]
        rest = rest[torch.randperm(len(rest), generator=torch.Generator().manual_seed(seed))[: self.train_size]]
        return Splits(
            train=TensorSplit(x[rest], y[rest]),
            valid=TensorSplit(x[valid], y[valid]),
            test=TensorSplit(*_tensors(held.x_test, held.y_test)),
        )

    def model(self, seed: int) -> nn.Module:
        """Return the model chosen by `architecture` and `size`: (samples, 1, 28, 28) -> (samples, 10)."""
        return image_model(self.architecture, 28, 10, seed, self.hidden, large=self.size == "large")


def _tensors(images: np.ndarray, labels: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(images).float().div(255.0).unsqueeze(1), torch.tensor(labels)
