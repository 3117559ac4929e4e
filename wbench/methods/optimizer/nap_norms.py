"""The norms that normalize-and-project puts before nonlinearities."""

from __future__ import annotations

import torch
from torch import Tensor, nn

EPS = 1e-5


class OffsetRMSNorm(nn.RMSNorm):
    """RMS norm with an offset, since the layer's own bias is dropped; over channels and space for a convolution.

    Args:
        width: Features or channels.
        spatial: Whether the input is (samples, channels, ...).
        affine: Whether scale and offset are learned.
    """

    def __init__(self, width: int, spatial: bool, affine: bool) -> None:
        super().__init__(width, eps=EPS, elementwise_affine=affine)
        self.spatial = spatial
        self.bias = nn.Parameter(torch.zeros(width)) if affine else None

    def forward(self, x: Tensor) -> Tensor:
        dims = tuple(range(1, x.ndim)) if self.spatial else (-1,)
        y = x * torch.rsqrt(x.square().mean(dims, keepdim=True) + (self.eps or 0.0))
        if self.weight is None or self.bias is None:
            return y
        shape = (1, -1, *[1] * (x.ndim - 2)) if self.spatial else (-1,)
        return y * self.weight.view(shape) + self.bias.view(shape)


def make_norm(kind: str, layer: nn.Module, affine: bool) -> nn.Module:
    """Return the norm that follows a layer.

    Args:
        kind: `layernorm` or `rmsnorm`.
        layer: Linear or convolution; a convolution is normalised over channels and space of one sample.
        affine: Whether scale and offset are learned.

    Returns:
        The module.
    """
    spatial = not isinstance(layer, nn.Linear)
    width = int(layer.weight.shape[0])  # type: ignore[index,union-attr,arg-type]
    if kind == "rmsnorm":
        return OffsetRMSNorm(width, spatial, affine)
    if spatial:
        return nn.GroupNorm(1, width, eps=EPS, affine=affine)
    return nn.LayerNorm(width, eps=EPS, elementwise_affine=affine)
