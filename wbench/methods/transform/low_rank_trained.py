"""Linear layers of a trained model cut to low rank, each alone: what computed sharing across layers is compared with.

The leading part of the singular value decomposition, of the weight W itself (Eckart and Young, 1936) or of W L with L L^T the
autocorrelation of the layer's inputs, which changes the layer's outputs least among matrices of the rank (Wang et al., 2025,
SVD-LLM, arXiv:2403.07378).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from wbench.method import Context, Stage, knob
from wbench.methods.layer.low_rank import LowRank
from wbench.ops.calibrate import layer_inputs
from wbench.ops.sharing import whitened_svd, whitening
from wbench.recipe import Recipe


class LowRankTrained(LowRank):
    """Cut the linear layers of a trained model to a low rank, each alone; nothing is trained.

    Usage:
        `model = LowRankTrained(keep=0.8).finish(model, Context(splits=Splits(train=...)))`
    """

    id: ClassVar[str] = "low_rank_trained"
    title: ClassVar[str] = "Truncated singular value decomposition of trained layers"
    stage: ClassVar[Stage] = "transform"
    calibration_samples: ClassVar[int] = 64

    whiten: bool = knob(True, doc="Weigh the rest by the layer's inputs.")

    def prepare(self, model: nn.Module, ctx: Context | Recipe | None = None) -> nn.Module:
        for name, layer in self.select(model).items():
            self.rank_of(layer, name)  # type: ignore[arg-type]
        return model

    def finish(self, model: nn.Module, ctx: Context | None = None) -> nn.Module:
        chosen = self.select(model)
        inputs = (
            layer_inputs(model, chosen, Context.of(ctx).calibration(self.calibration_samples)[0]) if self.whiten else {}
        )
        for name, layer in chosen.items():
            weight, rank = layer.weight.detach(), self.rank_of(layer, name)  # type: ignore[operator,arg-type]
            factor = (
                whitening(inputs[name])
                if self.whiten
                else torch.eye(weight.shape[1], dtype=torch.float64, device=weight.device)
            )
            up, _, down = whitened_svd(weight, factor)
            model = self.put(model, name, up[:, :rank].to(weight), down[:rank].to(weight))
        return model
