r"""WiSE-FT: $\theta = \theta_0 + \alpha\, (\bar\theta - \theta_0)$, between a base and the mean of what was fine-tuned from it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import nn

from wbench.errors import CompositionError, FitError
from wbench.method import Context, Merged, Paper, Population, knob


class WiSEFT(Population):
    """Interpolates between a base and the mean of its members.

    Usage:
        `merged = WiSEFT(alpha=0.5).combine({"cars": a}, base=pretrained).models[0]`
    """

    id: ClassVar[str] = "wise_ft"
    title: ClassVar[str] = "WiSE-FT: interpolation between a base and what was fine-tuned from it"
    paper: ClassVar[Paper | None] = Paper(
        "Robust fine-tuning of zero-shot models", "Wortsman, Ilharco, Kim and others", 2021, "2109.01903", "CVPR 2022"
    )
    topics: ClassVar[tuple[str, ...]] = ("model merging",)

    alpha: float = knob(0.5, 0.0, 1.0, doc="0: the base; 1: the mean of the members.")

    @torch.no_grad()
    def combine(
        self, members: Mapping[str, nn.Module], base: nn.Module | None = None, ctx: Context | None = None
    ) -> Merged:
        """Return the interpolated model."""
        if not members or base is None:
            raise CompositionError("wise_ft needs members={role: model, ...} and references={'base': model}")
        merged = copy.deepcopy(base)
        for role, model in members.items():
            given = dict(model.named_parameters())
            for name, param in base.named_parameters():
                if name not in given or given[name].shape != param.shape:
                    raise FitError(
                        f"wise_ft: '{role}' has no parameter {name} of the base's shape {tuple(param.shape)}"
                    )
                merged.get_parameter(name).add_(given[name] - param, alpha=self.alpha / len(members))
        return Merged([merged], sum(held.nbytes for held in (*merged.parameters(), *merged.buffers())))
