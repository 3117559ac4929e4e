r"""Round to nearest: the plain quantisation of trained weights, with a uniform grid over the range of each group.

The grid runs from a group's minimum to its maximum, which are what is stored beside the codes, at 16 bits:

$$ \hat w = \min + s \operatorname{round}\!\left(\frac{w - \min}{s}\right), \qquad s = \frac{\max - \min}{2^b - 1} $$

A group: consecutive weights of one output (a row of the weight, (out, in)). Bits per weight: $b + 32 / \text{group size}$.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from wbench.errors import FitError
from wbench.method import Context, Paper, knob
from wbench.method.stages import Transform
from wbench.ops.rounding import minmax_groups


class RTN(Transform):
    """Quantise weights group by group to the nearest of 2^bits levels; kept as floats of these values.

    Usage:
        `wb.train(task, RTN(bits=4), start=base, recipe=wb.Recipe(steps=0))`
    """

    id: ClassVar[str] = "rtn"
    title: ClassVar[str] = "Round to nearest"
    paper: ClassVar[Paper | None] = Paper(
        "A White Paper on Neural Network Quantization", "Nagel, Fournarakis, Amjad, Bondarenko, van Baalen, Blankevoort",
        2021, "2106.08295",
    )  # fmt: skip
    topics: ClassVar[tuple[str, ...]] = ("compression", "quantisation", "post-training")
    dtypes: ClassVar[tuple[torch.dtype, ...]] = (torch.float32, torch.float64, torch.bfloat16)
    kind: ClassVar[Literal["method", "baseline"]] = "baseline"

    layers: str | tuple[str, ...] = knob(("*", "!*head"), doc="Globs of quantised layers; the head stays as it is.")
    bits: int = knob(4, 1, 8, unit="bits", doc="Bits of a code.")
    group_size: int | None = knob(
        None, 1, 65_536, scale="log", slider=(16, 1024), unit="weights",
        doc="Weights that share a range; divides what one output has; none: all of them.",
    )  # fmt: skip

    def transform(self, module: nn.Module, inputs: Tensor | None, name: str) -> nn.Module:
        weight: Tensor = module.weight  # type: ignore[assignment]
        if not bool(torch.isfinite(weight).all()):
            raise FitError(f"rtn: the weight of layer '{name}' is not finite; it has no range")
        rounded = minmax_groups(weight, self.bits, self._group(weight, name))
        if not bool(torch.isfinite(rounded).all()):
            raise FitError(f"rtn: the range of layer '{name}' exceeds 16 bits; exclude it: layers=('*', '!{name}')")
        weight.copy_(rounded)
        return module

    def packed_bytes(self, model: nn.Module, ctx: Context | None = None) -> Mapping[str, int]:
        """Return the bytes of codes, scales and minima that the quantised weights amount to.

        Args:
            model: The model.
            ctx: The run.

        Returns:
            `weights`: those of the selected layers alone.
        """
        total = 0
        for name, layer in self.select(model).items():
            numbers = layer.weight.numel()  # type: ignore[union-attr,operator]
            total += -(-numbers * self.bits // 8) + 4 * numbers // self._group(layer.weight, name)  # type: ignore[arg-type]
        return {"weights": total}

    def _group(self, weight: Tensor, name: str) -> int:
        width = weight[0].numel()
        size = self.group_size or width
        if width % size:
            raise FitError(
                f"rtn: group_size={size} does not divide the {width} weights of an output of layer '{name}' "
                f"{tuple(weight.shape)}; use a divisor or none"
            )
        return size
