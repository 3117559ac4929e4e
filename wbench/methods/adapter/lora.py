r"""LoRA: Low-Rank Adaptation of Large Language Models.

Edward Hu, Yelong Shen, Phillip Wallis, Zeyuan Allen-Zhu, Yuanzhi Li, Shean Wang, Lu Wang, Weizhu Chen, 2021,
arXiv:2106.09685.

A frozen weight gets a trained product of rank r beside it:

$$ y = W x + b + \frac{\alpha}{r} B A x $$

$W$: (O, I), frozen; $A$: (r, I), Kaiming uniform; $B$: (O, r), zero, so that the start is the frozen model.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from wbench.errors import FitError
from wbench.method import AdaptedLayer, Adapter, Paper, knob


class LoRALayer(AdaptedLayer):
    """A frozen linear layer with a low-rank product beside it.

    Args:
        base: The layer, weight (O, I).
        rank: r.
        scaling: Factor of the product.
        dropout: Dropout on the product's input.
    """

    def __init__(self, base: nn.Linear, rank: int, scaling: float, dropout: float = 0.0) -> None:
        super().__init__(base)
        self.scaling = scaling
        like: dict[str, Any] = {"dtype": base.weight.dtype, "device": base.weight.device}
        self.lora_a = nn.Parameter(torch.empty(rank, base.in_features, **like))
        self.lora_b = nn.Parameter(torch.zeros(base.out_features, rank, **like))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        inner = nn.functional.linear(
            self.dropout(x), self.lora_a
        )  # the scale is applied where there are fewest numbers
        return self.base(x) + nn.functional.linear(inner if self.scaling == 1.0 else self.scaling * inner, self.lora_b)

    def merged_weight(self) -> Tensor:
        dtype = torch.promote_types(self.base.weight.dtype, torch.float32)
        product = self.lora_b.to(dtype) @ self.lora_a.to(dtype)
        return (self.base.weight.to(dtype) + self.scaling * product).to(self.base.weight.dtype)


class LoRA(Adapter):
    """Fine-tune a low-rank product a layer; everything else is frozen.

    Usage:
        `model = LoRA(rank=4).prepare(model)`, train what requires a gradient, `model = lora.finish(model)`.
    """

    id: ClassVar[str] = "lora"
    title: ClassVar[str] = "LoRA: low-rank adapters"
    vectorizes: ClassVar[bool] = True
    paper: ClassVar[Paper | None] = Paper(
        "LoRA: Low-Rank Adaptation of Large Language Models", "Hu, Shen, Wallis, Allen-Zhu, Li, Wang, Wang, Chen",
        2021, "2106.09685", "ICLR 2022",
    )  # fmt: skip
    topics: ClassVar[tuple[str, ...]] = ("fine-tuning", "low-rank", "adapter")
    dtypes: ClassVar[tuple[torch.dtype, ...]] = (torch.float32, torch.float64, torch.bfloat16)
    kind: ClassVar[Literal["method", "baseline"]] = "baseline"

    rank: int = knob(4, 1, 8192, scale="log", slider=(1, 128), doc="Rank of the product.")
    alpha: float | None = knob(
        None, 0.0, 4096.0, slider=(1, 128), doc="Scale is alpha / rank; none: alpha = rank, scale 1."
    )
    dropout: float = knob(0.0, 0.0, 0.9, slider=(0.0, 0.3), doc="Dropout on the adapter's input.")
    train_a: bool = knob(True, doc="Train A; off: a fixed random A, only B is trained (LoRA-FA).")

    def adapt(self, linear: nn.Linear, name: str) -> AdaptedLayer:
        layer = LoRALayer(linear, self.checked_rank(linear, name), self.scaling, self.dropout)
        layer.lora_a.requires_grad_(self.train_a)
        return layer

    @property
    def scaling(self) -> float:
        """Factor of the product, alpha / rank."""
        return 1.0 if self.alpha is None else self.alpha / self.rank

    def checked_rank(self, linear: nn.Linear, name: str) -> int:
        """Return the rank, if it fits a layer.

        Args:
            linear: The layer.
            name: Its name.

        Returns:
            The rank.

        Raises:
            FitError: If the rank is larger than the layer's shorter side.
        """
        limit = min(linear.in_features, linear.out_features)
        if self.rank > limit:
            raise FitError(
                f"{self.id}: rank must be between 1 and {limit} for '{name}' of shape {tuple(linear.weight.shape)}, got {self.rank}"
            )
        return self.rank
