"""Small vision transformer (Dosovitskiy et al., 2021, arXiv:2010.11929), mean over patches instead of a class token."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from wbench.errors import FitError
from wbench.models.attention import TransformerBlock, init_transformer


class ViT(nn.Module):
    """Patches, pre-norm blocks, mean, head. Slots as in `GPT`, and `patch`.

    Args:
        in_channels: Channels of the image.
        image_size: Height and width.
        num_classes: Outputs.
        patch_size: Side of a patch; divides `image_size`.
        depth: Blocks.
        width: Features.
        heads: Heads; divides `width`.
        mlp_ratio: Hidden features of the feed-forward part over `width`.
        act: Makes an activation.

    Raises:
        FitError: If `patch_size` does not divide `image_size`.
    """

    def __init__(
        self,
        in_channels: int,
        image_size: int,
        num_classes: int,
        patch_size: int = 4,
        depth: int = 2,
        width: int = 64,
        heads: int = 4,
        mlp_ratio: int = 2,
        act: Callable[[], nn.Module] = nn.GELU,
    ) -> None:
        super().__init__()
        if image_size % patch_size:
            raise FitError(f"ViT: patch_size={patch_size} does not divide image_size={image_size}; choose a divisor")
        self.patch = nn.Conv2d(in_channels, width, patch_size, patch_size)
        self.position = nn.Parameter(torch.zeros((image_size // patch_size) ** 2, width))
        self.blocks = nn.Sequential(*(TransformerBlock(width, heads, mlp_ratio, False, act) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_classes)
        init_transformer(self, depth)

    def features(self, x: Tensor) -> Tensor:
        """Return what the head sees.

        Args:
            x: (samples, channels, height, width).

        Returns:
            (samples, width).
        """
        tokens = self.patch(x).flatten(2).transpose(1, 2) + self.position
        return self.norm(self.blocks(tokens)).mean(1)  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        """Return (samples, num_classes); input (samples, channels, height, width)."""
        return self.head(self.features(x))  # type: ignore[no-any-return]
