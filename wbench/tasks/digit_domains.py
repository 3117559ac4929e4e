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

DEFAULTS = {
    "rotation": 90.0, "shift": 2.0, "mix": 0.4, "halves": 1.0, "fog": 0.6, "contrast": 0.3, "rotated_pixels": 1.5, "identity": 0.0,
}  # fmt: skip
LARGEST = {
    "rotation": 360.0, "shift": 7.0, "mix": 1.0, "halves": 1.0, "fog": 1.0, "contrast": 1.0, "rotated_pixels": 6.0, "identity": 0.0,
}  # fmt: skip
OTHERS = 1000  # index of the first of the domains that a base is trained on beside the digits themselves
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


def pixel_rotation(seed: int, index: int, angle: float, size: int = 64) -> Tensor:
    r"""Return $R = \exp(\vartheta S)$ with a random skew-symmetric S of spectral norm 1.

    Args:
        seed: Decides S, together with the index.
        index: Which.
        angle: $\vartheta$, in radians: the largest angle by which R turns a plane.
        size: Of the square matrix.

    Returns:
        Orthogonal, (size, size), float64.
    """
    rng = torch.Generator().manual_seed(1_000_003 * (index + 1) + seed)
    noise = torch.randn(size, size, generator=rng, dtype=torch.float64)
    skew = noise - noise.T
    return torch.linalg.matrix_exp(angle * skew / torch.linalg.matrix_norm(skew, 2))


class DigitDomains(Task):
    """Classify 8 x 8 digits that were rotated, shifted, mixed, halved, fogged or flattened. `identity` is the base.

    With one seed all domains hold the same images in the same splits, so that a fine-tune never meets its base's test.
    `rotated_pixels` is a family without end: all 64 pixels turned by a random orthogonal matrix, one for each seed and `index`.
    A base can be trained on some of the family, too (`extra_domains`), and what is made of many fine-tunes be evaluated on
    each one's domain (`domains`): the splits `domain0`, `domain1`, ... are the test splits of the indices 0, 1, ...

    Usage:
        `wb.train(wb.tasks.DigitDomains(domain="rotation"), start=base_run)`
    """

    id: ClassVar[str] = "digit_domains"
    title: ClassVar[str] = "Digits, 8 x 8, in many domains"
    recipes: ClassVar[dict[str, Recipe]] = {
        "smoke": _BASE.replace(steps=40),
        "cpu": _BASE,
        "gpu": _BASE.replace(steps=5000, batch_size=256, schedule="cosine"),
    }

    domain: Literal["identity", "rotation", "shift", "mix", "halves", "fog", "contrast", "rotated_pixels"] = knob(
        "rotation", doc="What is done to the images."
    )
    strength: float | None = knob(
        None, 0.0, 360.0, doc="Degrees, pixels, share, factor or (rotated_pixels) radians; none: the domain's default."
    )
    index: int = knob(0, 0, OTHERS - 1, slider=(0, 20), doc="Which of the orthogonal matrices, for rotated_pixels.")
    domains: int = knob(0, 0, OTHERS, slider=(0, 20), doc="How many domains of rotated_pixels to add as test splits.")
    extra_domains: int = knob(
        0,
        0,
        100,
        slider=(0, 10),
        doc="How many further domains of rotated_pixels identity trains on beside the digits.",
    )
    architecture: Literal["mlp", "convnet"] = knob("mlp", doc="Model.")
    hidden: tuple[int, ...] = knob((64, 64), 1, 16384, doc="Hidden sizes of the MLP.")

    @model_validator(mode="after")
    def _strength_fits(self) -> Self:
        if self.extra_domains and self.domain != "identity":
            raise KnobError(
                f"extra_domains={self.extra_domains} does not fit '{self.domain}'; allowed: with 'identity'"
            )
        if self.domains and self.domain not in {"identity", "rotated_pixels"}:
            raise KnobError(
                f"domains={self.domains} does not fit '{self.domain}'; allowed: with 'rotated_pixels', 'identity'"
            )
        family = self.domain == "identity" and (self.extra_domains or self.domains)
        top, strength = LARGEST["rotated_pixels" if family else self.domain], self.strength
        whole = self.domain in {"shift", "halves"}
        if strength is not None and (strength > top or (whole and not strength.is_integer())):
            kind = "a whole number" if whole else "a number"
            raise KnobError(f"strength={strength} does not fit '{self.domain}'; allowed: {kind} from 0 to {top:g}")
        return self

    def data(self, seed: int) -> Splits:
        """Return train, valid and test of `digits`, changed: images (samples, 1, 8, 8), digits (samples,); and `domain0`, ..."""
        strength = DEFAULTS[self.domain] if self.strength is None else self.strength
        rng = torch.Generator().manual_seed(seed)
        changed, plain = Splits(), Digits().data(seed)
        for name, part in plain.items():
            images, labels = part.tensors  # type: ignore[attr-defined]
            if self.domain == "rotated_pixels":
                images = self._turned(images, seed, self.index)
            else:
                images = change(images, self.domain, strength, rng)
            others = [self._turned(images, seed, OTHERS + index) for index in range(self.extra_domains)]
            changed[name] = TensorSplit(torch.cat([images, *others]), labels.repeat(1 + len(others)))
        images, labels = plain["test"].tensors  # type: ignore[attr-defined]
        for index in range(self.domains):
            changed[f"domain{index}"] = TensorSplit(self._turned(images, seed, index), labels)
        return changed

    def _turned(self, images: Tensor, seed: int, index: int) -> Tensor:
        angle = DEFAULTS["rotated_pixels"] if self.strength is None else self.strength
        return (images.flatten(1).double() @ pixel_rotation(seed, index, angle).T).float().view_as(images)

    def model(self, seed: int) -> nn.Module:
        """Return the model chosen by `architecture`: (samples, 1, 8, 8) -> (samples, 10)."""
        return image_model(self.architecture, 8, 10, seed, self.hidden)
