r"""DoRA: Weight-Decomposed Low-Rank Adaptation.

Shih-Yang Liu, Chien-Yi Wang, Hongxu Yin, Pavlo Molchanov, Yu-Chiang Frank Wang, Kwang-Ting Cheng, Min-Hung Chen, 2024,
arXiv:2402.09353.

The weight vector of each output is a length times a direction; the length is trained, the direction gets LoRA's update:

$$ W = M \frac{V}{\lVert V \rVert_{row}}, \qquad V = W_0 + s\, B A $$

$W_0$: (O, I), frozen; $A$: (r, I); $B$: (O, r), zero at the start; $M$: (O, 1), at the start the rows' lengths of $W_0$. The paper
takes $\lVert V \rVert$ as a constant in the backward pass, which saves memory; without that the gradient of a row of $V$ is
orthogonal to the row.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from wbench.errors import FitError
from wbench.method import AdaptedLayer, Paper, knob
from wbench.methods.adapter.lora import LoRA, LoRALayer


def normalized_rows(magnitude: Tensor, direction: Tensor, detach_norm: bool) -> Tensor:
    """Return rows of given lengths.

    Args:
        magnitude: (O, 1).
        direction: (O, I), no row zero.
        detach_norm: Take the rows' lengths as constants in the backward pass.

    Returns:
        (O, I).
    """
    norm = direction.norm(dim=1, keepdim=True)
    return magnitude * direction / (norm.detach() if detach_norm else norm)


class DoRALayer(LoRALayer):
    """A frozen linear layer whose rows get a trained length, and a direction with a low-rank update.

    Args:
        base: The layer, weight (O, I).
        rank: r.
        scaling: Factor of the product.
        dropout: Dropout on the low-rank path's input.
        detach_norm: As in `normalized_rows`.

    Attributes:
        magnitude: (O, 1).
    """

    def __init__(
        self, base: nn.Linear, rank: int, scaling: float, dropout: float = 0.0, detach_norm: bool = True
    ) -> None:
        super().__init__(base, rank, scaling, dropout)
        self.detach_norm = detach_norm
        wide = torch.promote_types(base.weight.dtype, torch.float32)
        self.magnitude = nn.Parameter(base.weight.detach().to(wide).norm(dim=1, keepdim=True))

    def merged_weight(self) -> Tensor:
        dtype = self.magnitude.dtype
        direction = self.base.weight.to(dtype) + self.scaling * self.lora_b.to(dtype) @ self.lora_a.to(dtype)
        return normalized_rows(self.magnitude, direction, self.detach_norm).to(self.base.weight.dtype)

    def forward(self, x: Tensor) -> Tensor:
        # a row's length over its norm multiplies the row's output, so that no gradient of the size of the weight is needed;
        # dropout acts on the low-rank path's input alone
        base = self.base
        y = nn.functional.linear(x, base.weight)
        y = y + self.scaling * nn.functional.linear(nn.functional.linear(self.dropout(x), self.lora_a), self.lora_b)
        y = y * self._factor().to(y.dtype)
        return y if base.bias is None else y + base.bias

    def _factor(self) -> Tensor:
        dtype = self.magnitude.dtype
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.detach_norm):
            direction = self.base.weight.to(dtype) + self.scaling * self.lora_b.to(dtype) @ self.lora_a.to(dtype)
            norm = direction.norm(dim=1)
        return self.magnitude.squeeze(1) / norm


def check_rows(linear: nn.Linear, name: str, who: str) -> None:
    """Refuse a layer with a zero row: its direction is undefined.

    Args:
        linear: The layer.
        name: Its name.
        who: The method's id.

    Raises:
        FitError: If there is such a row; names it.
    """
    zero = (linear.weight.detach() == 0).all(1).nonzero().flatten().tolist()
    if zero:
        raise FitError(
            f"{who}: row {zero[0]} of '{name}' is zero ({len(zero)} in all); weight normalisation is undefined there. "
            f"Exclude the layer: layers=('*', '!{name}')"
        )


class DoRA(LoRA):
    """Fine-tune lengths, and directions by a low-rank product; everything else is frozen.

    Usage:
        `model = DoRA(rank=8).prepare(model)`, train what requires a gradient, `model = dora.finish(model)`.
    """

    id: ClassVar[str] = "dora"
    title: ClassVar[str] = "DoRA: weight-decomposed low-rank adaptation"
    paper: ClassVar[Paper | None] = Paper(
        "DoRA: Weight-Decomposed Low-Rank Adaptation", "Liu, Wang, Yin, Molchanov, Wang, Cheng, Chen",
        2024, "2402.09353", "ICML 2024",
    )  # fmt: skip
    topics: ClassVar[tuple[str, ...]] = ("fine-tuning", "low-rank", "adapter", "weight normalisation")

    detach_norm: bool = knob(True, doc="Take the rows' lengths as constants in the backward pass, as the paper does.")

    def adapt(self, linear: nn.Linear, name: str) -> AdaptedLayer:
        check_rows(linear, name, self.id)
        layer = DoRALayer(linear, self.checked_rank(linear, name), self.scaling, self.dropout, self.detach_norm)
        layer.lora_a.requires_grad_(self.train_a)
        return layer
