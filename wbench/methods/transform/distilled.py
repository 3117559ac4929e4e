"""End-to-end distillation of a quantised model on a calibration set: all weights, biases and ranges learn from the float model.

Min-max quantisation, then Adam on the KL divergence from the float model's predictions: what layer-wise calibration is
compared with, as more prone to fit the few samples.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import nn

from wbench.method import Context, Paper, knob
from wbench.methods.transform.quantized import Calibration, PostTrainingQuantizer, distill, min_max
from wbench.methods.transform.quantized_layer import quantized_layers, rate_groups


class Distilled(PostTrainingQuantizer):
    """Quantise, then train everything end to end to predict what the float model predicts, on a few unlabelled samples.

    Usage:
        `wb.train(task, Distilled(bits_w=4, bits_a=4), start=base, recipe=wb.Recipe(steps=0, lr=1e-3))`
    """

    id: ClassVar[str] = "distilled"
    title: ClassVar[str] = "End-to-end distillation of a quantised model"
    paper: ClassVar[Paper | None] = Paper(
        "Distilling the Knowledge in a Neural Network", "Hinton, Vinyals, Dean", 2015, "1503.02531"
    )
    kind: ClassVar[Literal["method", "baseline"]] = "baseline"

    iters: int = knob(150, 0, 100_000, scale="log0", slider=(20, 2000), unit="steps", doc="Adam steps.")
    rate_qx: float = knob(
        10.0, 0.0, 1e6, scale="log0", slider=(0.1, 1e4), doc="Rate of input ranges, over the recipe's and the range."
    )

    def quantize(self, calibration: Calibration, ctx: Context) -> nn.Module:
        model = min_max(calibration, self.precision(calibration, (self.bits_w, self.bits_a)))
        groups = rate_groups(quantized_layers(model), ctx.recipe.lr, 1.0, 1.0, self.rate_qx)
        distill(model, calibration, torch.optim.Adam(groups), self.iters, ctx.recipe.batch_size, ctx.rng)
        return model
