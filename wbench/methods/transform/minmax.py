"""Min-max quantisation after training: each grid spans the range of what it holds, weights by output channel, inputs as a whole.

BatchNorms are folded first. With clipping, each channel's range is narrowed to what leaves the least squared error of its weights.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import nn

from wbench.method import Context, Paper, knob
from wbench.methods.transform.quantized import Calibration, PostTrainingQuantizer, min_max


class MinMax(PostTrainingQuantizer):
    """Quantise weights and inputs over their ranges on a few unlabelled samples; nothing is optimised.

    Usage:
        `wb.train(task, MinMax(bits_w=4, bits_a=4), start=base, recipe=wb.Recipe(steps=0))`
    """

    id: ClassVar[str] = "minmax"
    title: ClassVar[str] = "Min-max quantisation after training"
    paper: ClassVar[Paper | None] = Paper(
        "A White Paper on Neural Network Quantization", "Nagel, Fournarakis, Amjad, Bondarenko, van Baalen, Blankevoort",
        2021, "2106.08295",
    )  # fmt: skip
    kind: ClassVar[Literal["method", "baseline"]] = "baseline"

    clip: Literal["none", "mse"] = knob("none", doc="Narrow the weights' ranges to the least squared error, or not.")

    def quantize(self, calibration: Calibration, ctx: Context) -> nn.Module:
        return min_max(calibration, self.precision(calibration, (self.bits_w, self.bits_a)), self.clip)
