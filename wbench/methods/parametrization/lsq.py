r"""LSQ: Learned Step Size Quantization.

Steven K. Esser, Jeffrey L. McKinstry, Deepika Bablani, Rathinakumar Appuswamy, Dharmendra S. Modha, 2020, arXiv:1902.08153.

Weights and layer inputs are rounded to multiples of a step size that is trained with them:

$$ w_q = s \,\mathrm{round}(\mathrm{clamp}(w / s, -2^{b-1}, 2^{b-1} - 1)), \qquad
   \frac{\partial w_q}{\partial s} = \begin{cases} \mathrm{round}(w/s) - w/s & \text{inside} \\ \text{the clipping code} & \text{outside} \end{cases} $$

$w$: the weight, one $s$ an output row; for inputs one an input channel, with trained shifts before and after. The gradient of
$s$ is divided by the root of (numbers that share it times the highest code).
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from wbench.method import Paper, QuantizedLayers, knob
from wbench.method.layerwise import LINEAR
from wbench.ops.lattice import learned_quantize, learned_start


class LearnedWeight(nn.Module):
    """The parametrisation of one weight by LSQ.

    Args:
        weight: (O, ...).
        bits: Of a code.
    """

    def __init__(self, weight: Tensor, bits: int) -> None:
        super().__init__()
        self.bits = bits
        self.scale = nn.Parameter(learned_start(weight, bits, tuple(range(1, weight.ndim))))

    def forward(self, v: Tensor) -> Tensor:
        """Return the weight on its levels; input the latent weight."""
        return learned_quantize(v, self.scale, self.bits, v[0].numel())

    def codes(self, v: Tensor) -> Tensor:
        """Return the whole numbers that stand for a weight.

        Args:
            v: The latent weight.
        """
        if self.bits == 1:
            return (v >= 0).to(v.dtype)
        half = 2 ** (self.bits - 1)
        return (v.detach() / self.scale.detach().clamp_min(1e-5)).round().clamp(-half, half - 1)


class LearnedInput(nn.Module):
    """A layer's input by LSQ: one step size an input channel, set by the first batch, and shifts before and after.

    Args:
        channels: Features of the input, its last dimension.
        bits: Of a code.
        signed: Whether there are negative codes.
    """

    started: Tensor

    def __init__(self, channels: int, bits: int, signed: bool) -> None:
        super().__init__()
        self.bits, self.signed = bits, signed
        self.scale = nn.Parameter(torch.ones(channels))
        self.before, self.after = nn.Parameter(torch.zeros(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))

    def forward(self, x: Tensor) -> Tensor:
        """Return the quantised input; (..., channels)."""
        if not bool(self.started):
            with torch.no_grad():
                start = learned_start(x, self.bits, tuple(range(x.ndim - 1)), signed=self.signed)
                self.scale.copy_(start.flatten())
                self.started.fill_(True)
        shared = x.numel() // x.shape[-1]
        return learned_quantize(x + self.before, self.scale, self.bits, shared, signed=self.signed) + self.after


class LSQ(QuantizedLayers):
    """Quantisation-aware training with learned step sizes.

    Usage:
        `wb.train("digits", LSQ(bits=2), start=run)`
    """

    id: ClassVar[str] = "lsq"
    title: ClassVar[str] = "LSQ: learned step size quantization"
    paper: ClassVar[Paper | None] = Paper(
        "Learned Step Size Quantization", "Esser, McKinstry, Bablani, Appuswamy, Modha", 2020, "1902.08153", "ICLR 2020"
    )
    topics: ClassVar[tuple[str, ...]] = ("quantization-aware training", "few bits")
    kind: ClassVar[Literal["method", "baseline"]] = "baseline"
    result: ClassVar[Literal["plain", "rebuilt"]] = "rebuilt"
    layer_types: ClassVar[tuple[type[nn.Module], ...]] = LINEAR

    layers: str | tuple[str, ...] = knob(
        ("*", "!*head*"), doc="Globs of quantised layers; the head is left out by default."
    )
    bits: int = knob(2, 1, 8, unit="bits", doc="Bits of a weight.")
    act_bits: int | None = knob(None, 2, 8, unit="bits", doc="Bits of the layers' inputs; none: they stay as they are.")

    def weight_quantizer(self, weight: Tensor, name: str) -> nn.Module:
        return LearnedWeight(weight, self.bits)

    def input_quantizer(self, layer: nn.Module, name: str) -> nn.Module | None:
        return input_quantizer(layer, name, self.act_bits)


def input_quantizer(layer: nn.Module, name: str, bits: int | None) -> nn.Module | None:
    """Return the quantiser of a linear layer's input; unsigned behind a GELU, as for the second layer of a feed-forward part.

    Args:
        layer: A linear layer.
        name: Its name.
        bits: Of a code; `None`: no quantiser.
    """
    return LearnedInput(int(layer.in_features), bits, not name.endswith("fc2")) if bits is not None else None  # type: ignore[arg-type]
