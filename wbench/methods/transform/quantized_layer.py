"""A layer on learned grids."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from wbench.ops.fakequant import fake_quantize, weight_range

Bits = tuple[int, int]


class QuantizedLayer(nn.Module):
    """A linear or convolutional layer with fake-quantised weight (one range an output channel) and input (one range).

    Args:
        layer: The layer; becomes a part of this one.
        bits: Of weights and inputs.
        folded: Whether a BatchNorm was folded into it.

    Attributes:
        w_low: Where each channel's range begins, (out, 1, ...).
        w_span: How long it is.
        x_low: Where the inputs' range begins, a scalar.
        x_span: How long it is.
        bits: (2,), uint8.
    """

    bits: Tensor
    folded: Tensor

    def __init__(self, layer: nn.Module, bits: Bits, folded: bool = False) -> None:
        super().__init__()
        self.layer, self.precision = layer, bits
        weight: Tensor = layer.weight  # type: ignore[assignment]
        (w_low, w_span), one = weight_range(weight), weight.new_ones(())
        self.w_low, self.w_span = nn.Parameter(w_low), nn.Parameter(w_span)
        self.x_low, self.x_span = nn.Parameter(0.0 * one), nn.Parameter(one)
        self.register_buffer("bits", torch.tensor(bits, dtype=torch.uint8, device=weight.device))
        self.register_buffer("folded", torch.tensor(folded, device=weight.device))

    def set_range(self, kind: Literal["w", "x"], bounds: tuple[Tensor, Tensor]) -> None:
        """Set where a range begins and how long it is.

        Args:
            kind: `w` for the weight's, `x` for the input's.
            bounds: Beginning and length.
        """
        with torch.no_grad():
            for name, value in zip(("low", "span"), bounds, strict=True):
                getattr(self, f"{kind}_{name}").copy_(value)

    def merged_weight(self) -> Tensor:
        """Return the weight that the forward uses."""
        return fake_quantize(self.layer.weight, self.w_low, self.w_span, self.precision[0])  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output; input as the layer's."""
        x = fake_quantize(x, self.x_low, self.x_span, self.precision[1])
        return torch.func.functional_call(self.layer, {"weight": self.merged_weight()}, (x,))

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.precision = (int(self.bits[0]), int(self.bits[1]))


def quantized_layers(model: nn.Module) -> dict[str, QuantizedLayer]:
    """Return the quantised layers of a model by name.

    Args:
        model: Any model.
    """
    return {name: module for name, module in model.named_modules() if isinstance(module, QuantizedLayer)}


def rate_groups(
    layers: Mapping[str, QuantizedLayer], lr: float, b: float, qw: float, qx: float
) -> list[dict[str, Any]]:
    """Return the parameters of quantised layers in groups, each with its rate.

    Args:
        layers: By name.
        lr: Rate of weights.
        b: Rate of biases, over it.
        qw: Rate of weight ranges, over it.
        qx: Rate of input ranges, over it and the range's own length.

    Returns:
        Groups for an optimizer.
    """
    groups = []
    for layer in layers.values():
        groups += [{"params": [layer.layer.weight], "lr": lr}, {"params": [layer.w_low, layer.w_span], "lr": lr * qw}]
        groups.append({"params": [layer.x_low, layer.x_span], "lr": lr * qx * float(layer.x_span.detach())})
        if layer.layer.bias is not None:
            groups.append({"params": [layer.layer.bias], "lr": lr * b})
    return groups
