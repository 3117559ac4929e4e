"""8 x 8 digits of scikit-learn: 1,797 images, seconds to train."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

import torch
from pydantic import model_validator
from torch import nn

from wbench.datasets import load_digits
from wbench.errors import KnobError
from wbench.knobs import knob
from wbench.recipe import Recipe
from wbench.splits import Splits, TensorSplit
from wbench.task import Task
from wbench.tasks._images import image_model, noisy, split
from wbench.tasks._views import ViewSplit, distorted, shifted

_BASE = Recipe(optimizer="sgd", lr=0.05, momentum=0.9, weight_decay=1e-3, batch_size=32, steps=600)


class Digits(Task):
    """Classify handwritten digits of 8 x 8 pixels, values in [0, 1] before noise.

    The seed decides the split. Validation: 300 samples, or 150 of the halves `0-4` and `5-9`; test: what is left. Only
    training labels are changed.

    Usage:
        `wb.train(wb.tasks.Digits(train_size=200, label_noise=0.1))`
    """

    id: ClassVar[str] = "digits"
    title: ClassVar[str] = "Handwritten digits, 8 x 8 (scikit-learn)"
    recipes: ClassVar[dict[str, Recipe]] = {
        "smoke": _BASE.replace(steps=60),
        "cpu": _BASE,
        "gpu": _BASE.replace(steps=5000, batch_size=256, schedule="cosine"),
    }

    architecture: Literal["mlp", "residual_mlp", "convnet", "resnet", "vit"] = knob("mlp", doc="Model.")
    hidden: tuple[int, ...] = knob((128, 128), 1, 16384, doc="Hidden sizes of the MLPs.")
    transformer: tuple[int, ...] = knob((2, 64, 4), 1, 4096, doc="Blocks, width and heads of the ViT.")
    widths: tuple[int, ...] = knob(
        (), 1, 16384, doc="Channels of the ConvNet's blocks or the ResNet's stages; empty: 16, 32 or 8, 16, 32."
    )
    norm: Literal["none", "batch", "batch_last"] = knob(
        "none", doc="Batch norm in the blocks of MLPs and ConvNet; batch_last: after the activation (MLPs)."
    )
    train_size: int | None = knob(None, 10, 1496, unit="samples", doc="Training samples; none: 1000, or 500 of a half.")
    label_noise: float = knob(0.0, 0.0, 1.0, doc="Share of training labels drawn anew among the digits in use.")
    classes: Literal["all", "0-4", "5-9"] = knob("all", doc="Digits in use; the model keeps ten outputs.")
    noise: float = knob(
        0.0, 0.0, 10.0, slider=(0.0, 1.0), doc="Deviation of Gaussian noise on the pixels, drawn once a seed."
    )
    labels_per_class: int | None = knob(
        None,
        1,
        100,
        unit="samples",
        doc="Labels given; the training images then also come as weak and strong views without.",
    )
    permuted: bool = knob(False, doc="Permute the pixels, by the seed.")
    random_labels: bool = knob(False, doc="Draw all training labels anew: nothing to learn but by heart.")

    @model_validator(mode="after")
    def _transformer_fits(self) -> Self:
        if len(self.transformer) != 3 or self.transformer[1] % self.transformer[2]:
            raise KnobError(
                f"transformer={self.transformer} is not allowed; allowed: blocks, width, heads, which divide the width"
            )
        return self

    def data(self, seed: int) -> Splits:
        """Return train, valid and test: images (samples, 1, 8, 8), digits (samples,).

        With `labels_per_class` training images are shifted anew at each step, and there is a split `unlabelled`: weak view, strong
        view, and the digit, which is there to judge pseudo-labels by, not to train on.

        Args:
            seed: Decides all of it.

        Raises:
            KnobError: If there are fewer images of a class than labels asked for.
        """
        rng = torch.Generator().manual_seed(seed)
        images, labels = load_digits()
        x, y = torch.tensor(images).div(16.0).unsqueeze(1), torch.tensor(labels)
        if self.classes != "all":
            keep = (y < 5) if self.classes == "0-4" else (y >= 5)
            x, y = x[keep], y[keep]
        if self.permuted:
            x = x.flatten(1)[:, torch.randperm(64, generator=rng)].view(-1, 1, 8, 8)
        if self.noise:
            x = x + self.noise * torch.randn(x.shape, generator=rng)
        train, valid = (1000, 300) if self.classes == "all" else (500, 150)
        splits = split(x, y, (self.train_size or train, valid), rng)
        share = 1.0 if self.random_labels else self.label_noise
        if share > 0:
            inputs, targets = splits["train"].tensors  # type: ignore[attr-defined]
            splits["train"] = TensorSplit(inputs, noisy(targets, share, y.unique(), rng))
        if self.labels_per_class is not None:
            splits = self._few_labels(splits, self.labels_per_class)
        return splits

    @staticmethod
    def _few_labels(splits: Splits, count: int) -> Splits:
        inputs, targets = splits["train"].tensors  # type: ignore[attr-defined]
        chosen = []
        for digit in targets.unique():
            found = (targets == digit).nonzero().flatten()
            if len(found) < count:
                raise KnobError(
                    f"labels_per_class={count} is too many; of digit {int(digit)} there are {len(found)} images"
                )
            chosen.append(found[:count])
        index = torch.cat(chosen)
        labelled, pool = TensorSplit(inputs[index], targets[index]), TensorSplit(inputs, targets)
        views = {"train": ViewSplit(labelled, (shifted,)), "unlabelled": ViewSplit(pool, (shifted, distorted))}
        return Splits({**splits, **views})

    def model(self, seed: int) -> nn.Module:
        """Return the model chosen by `architecture`: (samples, 1, 8, 8) -> (samples, 10)."""
        return image_model(
            self.architecture,
            8,
            10,
            seed,
            self.hidden,
            norm=self.norm,
            widths=self.widths,
            transformer=self.transformer,
        )
