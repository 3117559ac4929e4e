"""A small vision transformer, images for it, and normal numbers."""

import torch

from wbench.models import ViT


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def vit():
    torch.manual_seed(0)
    return ViT(1, 8, 10, patch_size=2, depth=2, width=16, heads=2)


def images(count=32):
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(count) % 10
