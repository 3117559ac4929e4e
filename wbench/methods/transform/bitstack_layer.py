"""A linear layer as a stack of residual blocks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from wbench.errors import FitError
from wbench.ops.residual_blocks import Blocks


class BitStackLinear(nn.Module):
    """A linear layer as a stack of blocks, of which the first few are loaded; it is not trained.

    Args:
        layer: The layer it stands for; gives shape, dtype and bias.
        blocks: The stack.
        scale: s (in,), or `None`.

    Attributes:
        place: (blocks,), int32: each block's place in the global order of the model; the first block's is 0.
        n_blocks_stored: Blocks in the stack.
        n_blocks_loaded: Blocks in use.
    """

    signs: Tensor
    a: Tensor
    b: Tensor
    scale: Tensor | None
    place: Tensor
    n_blocks_stored: Tensor
    n_blocks_loaded: Tensor
    cache: Tensor | None

    def __init__(self, layer: nn.Linear, blocks: Blocks, scale: Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features, self.dtype = layer.out_features, layer.in_features, layer.weight.dtype
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach(), requires_grad=False)
        count = len(blocks.a)
        state = {**blocks._asdict(), "scale": scale, "place": torch.zeros(count, dtype=torch.int32)}
        state |= {name: torch.tensor(count, dtype=torch.uint8) for name in ("n_blocks_stored", "n_blocks_loaded")}
        for name, value in state.items():
            self.register_buffer(name, None if value is None else value.to(layer.weight.device))
        self.register_buffer("cache", None, persistent=False)

    @property
    def block_bytes(self) -> int:
        """Bytes of one block, read off its tensors."""
        return sum(part[0].numel() * part.element_size() for part in (self.signs, self.a, self.b))

    def load(self, count: int) -> None:
        """Use the first blocks.

        Args:
            count: How many, 1 to all that are stored.

        Raises:
            FitError: If there are not as many.
        """
        if not 1 <= count <= len(self.a):
            raise FitError(f"bitstack: {count} blocks cannot be loaded; allowed: 1 to {len(self.a)}")
        if count != int(self.n_blocks_loaded):
            self.n_blocks_loaded.fill_(count)
            self.cache = None

    def merged_weight(self) -> Tensor:
        """Return the weight in use, (out, in); kept until another number of blocks is loaded."""
        if self.cache is None:
            wide = torch.float64 if self.dtype == torch.float64 else torch.float32
            weight = Blocks(self.signs, self.a, self.b).sum(int(self.n_blocks_loaded), wide)
            self.cache = (weight if self.scale is None else weight / self.scale.to(wide)).to(self.dtype)
        return self.cache

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., out); input (..., in)."""
        return nn.functional.linear(x, self.merged_weight(), self.bias)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.cache = None
