"""GaLore with its first subspace kept for ever: the ablation that separates "low-rank state" from "many subspaces".

Zhao et al., 2024, arXiv:2403.03507, section 4 (updates accumulate over subspaces) turned off: every step of a weight stays
in the rank-r subspace of its first gradient, so the weight can move in r directions only.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import nn

from wbench.method import Context
from wbench.methods.optimizer.galore import GaLore
from wbench.recipe import Recipe

NEVER = 10**9


class FrozenProjection(GaLore):
    """GaLore whose projection is chosen at the first step and never renewed.

    Usage:
        `opt = FrozenProjection(rank=8).optimizer(model, wb.Recipe(lr=1e-2))`
    """

    id: ClassVar[str] = "frozen_projection"
    title: ClassVar[str] = "GaLore with a frozen projection"
    vectorizes: ClassVar[bool] = True
    kind: ClassVar[Literal["method", "baseline"]] = "baseline"

    def optimizer(self, model: nn.Module, ctx: Context | Recipe | None = None) -> torch.optim.Optimizer:
        optimizer = super().optimizer(model, Context.of(ctx, methods=(self,)))
        for group in optimizer.param_groups:
            if "rank" in group:
                group["update_proj_gap"] = NEVER
        return optimizer
