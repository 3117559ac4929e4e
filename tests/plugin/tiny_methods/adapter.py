r"""VeRA: $W' = W + \mathrm{diag}(b)\, B\, \mathrm{diag}(d)\, A$ with random, frozen $A$ (r x I) and $B$ (O x r)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from wbench.method import AdaptedLayer, Adapter, Paper, knob


class VeRALayer(AdaptedLayer):
    """A frozen linear layer with two trained vectors.

    Args:
        base: The layer, weight (O, I).
        rank: r.
        seed: Decides A and B, which layers of one shape share.
    """

    a: Tensor
    b: Tensor

    def __init__(self, base: nn.Linear, rank: int, seed: int) -> None:
        super().__init__(base)
        rng = torch.Generator().manual_seed(seed)
        for name, shape in (("a", (rank, base.in_features)), ("b", (base.out_features, rank))):
            drawn = torch.randn(shape, generator=rng) * (2.0 / shape[1]) ** 0.5
            self.register_buffer(name, drawn.to(base.weight))
        self.down = nn.Parameter(base.weight.new_full((rank,), 0.1))
        self.up = nn.Parameter(base.weight.new_zeros(base.out_features))

    def merged_weight(self) -> Tensor:
        """Return the weight with the adapter merged in."""
        return self.base.weight + self.up[:, None] * (self.b * self.down) @ self.a

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output; input (..., I)."""
        return nn.functional.linear(x, self.merged_weight(), self.base.bias)


class VeRA(Adapter):
    """Fine-tune two vectors a layer between random matrices that all layers of one shape share.

    Usage:
        `model = VeRA(rank=16).prepare(model)`, train what requires a gradient, `model = vera.finish(model)`
    """

    id: ClassVar[str] = "vera"
    title: ClassVar[str] = "VeRA: vector-based random matrix adaptation"
    paper: ClassVar[Paper | None] = Paper(
        "VeRA: Vector-based Random Matrix Adaptation", "Kopiczko, Blankevoort, Asano", 2023, "2310.11454", "ICLR 2024"
    )
    topics: ClassVar[tuple[str, ...]] = ("fine-tuning", "adapter")

    rank: int = knob(16, 1, 8192, scale="log", slider=(1, 256), doc="Rows of A.")
    seed: int = knob(0, 0, 2**31 - 1, slider=(0, 20), doc="Decides the random matrices.")

    def adapt(self, linear: nn.Linear, name: str) -> AdaptedLayer:
        """Return the adapted layer."""
        return VeRALayer(linear, self.rank, self.seed)
