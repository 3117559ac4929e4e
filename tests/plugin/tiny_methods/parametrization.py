r"""Weight standardization: each output's weights have mean 0 and one size: $w = g\, (v - \bar v) / (\sigma_v \sqrt n)$."""

from __future__ import annotations

from typing import ClassVar

import pandas as pd
import torch
from torch import Tensor, nn

from wbench.claims import Arm, Check, Claim
from wbench.method import Context, Paper, Parametrization, knob
from wbench.recipe import Recipe
from wbench.tasks import Digits


class Standardized(nn.Module):
    """The parametrisation of one weight.

    Args:
        gain: Norm of each output's weights.
    """

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.gain = gain

    def forward(self, v: Tensor) -> Tensor:
        """Return the weight; input (out, ...)."""
        rows = v.flatten(1)
        rows = rows - rows.mean(1, keepdim=True)
        return (self.gain * rows / (rows.norm(dim=1, keepdim=True) + 1e-5)).view_as(v)


class WeightStandardization(Parametrization):
    """Train v with standardized rows in its place.

    Usage:
        `model = WeightStandardization().prepare(model)`
    """

    id: ClassVar[str] = "weight_standardization"
    title: ClassVar[str] = "Weight standardization"
    paper: ClassVar[Paper | None] = Paper(
        "Micro-Batch Training with Batch-Channel Normalization and Weight Standardization", "Qiao, Wang, Liu, Shen, Yuille", 2019,
        "1903.10520",
    )  # fmt: skip
    topics: ClassVar[tuple[str, ...]] = ("normalization",)
    picture: ClassVar[str] = "tiny_methods.pictures:spread"

    gain: float = knob(1.0, 0.01, 100.0, scale="log", slider=(0.25, 4.0), doc="Norm of each output's weights.")

    def reparametrize(self, weight: Tensor, name: str) -> nn.Module:
        """Return the module that computes the weight."""
        return Standardized(self.gain)

    def observe(self, model: nn.Module, ctx: Context | None = None) -> pd.DataFrame | None:
        """Return columns layer, size (mean norm of the outputs' trained v)."""
        rows = []
        for name in self.restore_forms(model):
            v = model.get_submodule(name).parametrizations["weight"].original.detach()
            rows.append({"layer": name, "size": float(torch.linalg.vector_norm(v.flatten(1), dim=1).mean())})
        return pd.DataFrame(rows) if rows else None


_RECIPE = Recipe(optimizer="sgd", lr=0.1, batch_size=64, steps=10)

claim = Claim(
    id="weight_standardization",
    statement="Standardized weights train to a lower loss.",
    paper_result="arXiv:1903.10520: ResNet-50 on ImageNet with group normalization, 24.0 to 22.7 % error.",
    task=Digits(),
    recipes={"smoke": _RECIPE, "cpu": _RECIPE.replace(steps=200), "gpu": _RECIPE.replace(steps=200)},
    arms={"standardized": Arm((WeightStandardization(),)), "plain": Arm(), "twin": Arm(recipe={"optimizer": "sgd"})},
    method="standardized",
    control="twin",
    checks=(Check("loss against plain weights", ("standardized", "plain"), "ratio", 0.9, "loss", direction="<="),),
)
