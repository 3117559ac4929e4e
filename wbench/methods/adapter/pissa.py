r"""PiSSA: Principal Singular Values and Singular Vectors Adaptation of Large Language Models.

Fanxu Meng, Zhaohui Wang, Muhan Zhang, 2024, arXiv:2404.02948.

LoRA that starts from the principal part of the weight, with the rest frozen:

$$ W = U \Sigma V^\top, \quad A = \Sigma_r^{1/2} V_r^\top, \quad B = U_r \Sigma_r^{1/2}, \quad W_{main} = W - B A $$

$W$: (O, I); $A$: (r, I); $B$: (O, r). With a scale s (alpha / rank) both factors are divided by its root, so that the start is
the given model whatever s is.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from wbench.errors import FitError
from wbench.method import AdaptedLayer, Paper
from wbench.methods.adapter.lora import LoRA, LoRALayer


def principal_factors(weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return the two factors of a weight's best approximation of rank r, the singular values split evenly.

    Args:
        weight: (O, I).
        rank: r.

    Returns:
        A (r, I) and B (O, r).
    """
    wide = weight if weight.dtype == torch.float64 else weight.float()
    u, s, vh = torch.linalg.svd(wide, full_matrices=False)
    root = s[:rank].sqrt()
    return root[:, None] * vh[:rank], u[:, :rank] * root


class PiSSA(LoRA):
    """Fine-tune the principal part of each weight; the remainder and everything else is frozen.

    Usage:
        `model = PiSSA(rank=4).prepare(model)`, train what requires a gradient, `model = pissa.finish(model)`.
    """

    id: ClassVar[str] = "pissa"
    title: ClassVar[str] = "PiSSA: principal singular adapters"
    paper: ClassVar[Paper | None] = Paper(
        "PiSSA: Principal Singular Values and Singular Vectors Adaptation of Large Language Models",
        "Meng, Wang, Zhang", 2024, "2404.02948", "NeurIPS 2024",
    )  # fmt: skip

    def adapt(self, linear: nn.Linear, name: str) -> AdaptedLayer:
        if self.scaling == 0.0:
            raise FitError("pissa: alpha=0 leaves no path for the principal part; use a positive alpha")
        layer = super().adapt(linear, name)
        if not isinstance(layer, LoRALayer):
            raise FitError(f"pissa: '{name}' got no low-rank layer")
        with torch.no_grad():
            a, b = principal_factors(linear.weight, self.rank)
            layer.lora_a.copy_(a / math.sqrt(self.scaling))
            layer.lora_b.copy_(b / math.sqrt(self.scaling))
            linear.weight.sub_((b @ a).to(linear.weight.dtype))
        return layer
