"""Digits in several guises: one base, many domains to fine-tune to."""

from __future__ import annotations

import math
from typing import ClassVar, Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from wbench.errors import KnobError
from wbench.knobs import knob
from wbench.recipe import Recipe
from wbench.splits import Splits, TensorSplit
from wbench.task import Task
from wbench.tasks._images import image_model
from wbench.tasks.digits import Digits

DEFAULTS = {"rotation": 90.0, "shift": 2.0, "mix": 0.4, "halves": 1.0, "fog": 0.6, "contrast": 0.3, "identity": 0.0}
LARGEST = {"rotation": 360.0, "shift": 7.0, "mix": 1.0, "halves": 1.0, "fog": 1.0, "contrast": 1.0, "identity": 0.0}
_BASE = Recipe(optimizer="adam", lr=1e-3, batch_size=64, steps=400)


def change(images: Tensor, domain: str, strength: float, rng: torch.Generator) -> Tensor:
    """Return images of another domain.

    Args:
        images: (samples, 1, height, width), values in [0, 1].
        domain: `rotation` (degrees, counter-clockwise), `shift` (pixels to the right), `mix` (share of another image),
            `halves` (left and right exchanged), `fog` (share of white), `contrast` (factor about the image's mean),
            `identity`.
        strength: As said.
        rng: Decides which image is mixed in.

    Returns:
        The same shape.
    """
    if domain == "rotation":
        if strength % 90 == 0:
            return images.rot90(int(strength // 90), (2, 3))
        angle = math.radians(strength)
        rows = [[math.cos(angle), -math.sin(angle), 0.0], [math.sin(angle), math.cos(angle), 0.0]]
        theta = torch.tensor(rows, dtype=images.dtype).expand(len(images), 2, 3)
        return F.grid_sample(images, F.affine_grid(theta, list(images.shape), align_corners=False), align_corners=False)
    if domain == "shift":
        return F.pad(images, (int(strength), 0))[..., : images.shape[-1]]
    if domain == "mix":
        return (1 - strength) * images + strength * images[torch.randperm(len(images), generator=rng)]
    if domain == "halves":
        return images.roll(images.shape[-1] // 2, -1) if strength else images
    if domain == "fog":
        return (1 - strength) * images + strength
    if domain == "contrast":
        mean = images.mean((2, 3), keepdim=True)
        return mean + strength * (images - mean)
    return images


class DigitDomains(Task):
    """Classify 8 x 8 digits that were rotated, shifted, mixed, halved, fogged or flattened. `identity` is the base.

    With one seed all domains hold the same images in the same splits, so that a fine-tune never meets its base's test.

    Usage:
        `wb.train(wb.tasks.DigitDomains(domain="rotation"), start=base_run)`
    """

    id: ClassVar[str] = "digit_domains"
    title: ClassVar[str] = "Digits, 8 x 8, in seven domains"
    recipes: ClassVar[dict[str, Recipe]] = {
        "smoke": _BASE.replace(steps=40),
        "cpu": _BASE,
        "gpu": _BASE.replace(steps=5000, batch_size=256, schedule="cosine"),
    }

    domain: Literal["identity", "rotation", "shift", "mix", "halves", "fog", "contrast"] = knob(
        "rotation", doc="What is done to the images."
    )
    strength: float | None = knob(None, 0.0, 360.0, doc="Degrees, pixels, share or factor; none: the domain's default.")
    architecture: Literal["mlp", "convnet"] = knob("mlp", doc="Model.")
    hidden: tuple[int, ...] = knob((64, 64), 1, 16384, doc="Hidden sizes of the MLP.")

    @model_validator(mode="after")
    def _strength_fits(self) -> Self:
        top, strength = LARGEST[self.domain], self.strength
        whole = self.domain in {"shift", "halves"}
        if strength is not None and (strength > top or (whole and not strength.is_integer())):
            kind = "a whole number" if whole else "a number"
            raise KnobError(f"strength={strength} does not fit '{self.domain}'; allowed: {kind} from 0 to {top:g}")
        return self

    def data(self, seed: int) -> Splits:
        """Return train, valid and test of `digits`, changed: images (samples, 1, 8, 8), digits (samples,)."""
        strength = DEFAULTS[self.domain] if self.strength is None else self.strength
        rng = torch.Generator().manual_seed(seed)
        changed = Splits()
        for name, part in Digits().data(seed).items():
            images, labels = part.tensors  # type: ignore[attr-defined]
            changed[name] = TensorSplit(change(images, self.domain, strength, rng), labels)
        return changed

    def model(self, seed: int) -> nn.Module:
        """Return the model chosen by `architecture`: (samples, 1, 8, 8) -> (samples, 10)."""
        return image_model(self.architecture, 8, 10, seed, self.hidden)
