r"""LSQ: Learned Step Size Quantization.

Steven K. Esser, Jeffrey L. McKinstry, Deepika Bablani, Rathinakumar Appuswamy, Dharmendra S. Modha, 2020, arXiv:1902.08153.

Weights and layer inputs are rounded to multiples of a step size that is trained with them:

$$ w_q = s \,\mathrm{round}(\mathrm{clamp}(w / s, -2^{b-1}, 2^{b-1} - 1)), \qquad
   \frac{\partial w_q}{\partial s} = \begin{cases} \mathrm{round}(w/s) - w/s & \text{inside} \\ \text{the clipping code} & \text{outside} \end{cases} $$

$w$: the weight, one $s$ an output row; for activations one a token or a channel, with trained shifts before and after. The gradient
of $s$ is divided by the root of (numbers that share it times the highest code). Activations are OFQ's (arXiv:2302.02210).
"""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor, nn

from wbench.method import Paper
from wbench.methods.parametrization.learned_activations import LearnedActivations
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


class LSQ(LearnedActivations):
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

    def weight_quantizer(self, weight: Tensor, name: str) -> nn.Module:
        return LearnedWeight(weight, self.bits)
