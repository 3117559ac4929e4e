r"""Scaling only: the sum of the task vectors at the mean length of one; what is left of OPCM without its projection.

The ablation of arXiv:2501.09522: $\theta_0 + \bar n\, \sum_t \tau_t / \lVert \sum_t \tau_t \rVert$, where $\tau_t$ is a
model's difference from the base $\theta_0$ and $\bar n$ the mean of their norms.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import nn

from wbench.method import Paper
from wbench.methods.population.merging import Fold, Merging
from wbench.methods.population.opcm import OPCM, RescaledSum
from wbench.ops.taskvector import Vector


class ScalingOnly(Merging):
    """Adds the members' changes up and rescales the sum to the mean distance from the base.

    Usage:
        `merged = ScalingOnly().combine({"cars": a, "birds": b}, base=pretrained).models[0]`
    """

    id: ClassVar[str] = "scaling_only"
    title: ClassVar[str] = "Sum of task vectors at the length of one"
    paper: ClassVar[Paper | None] = OPCM.paper
    topics: ClassVar[tuple[str, ...]] = ("model merging", "task vectors")
    kind: ClassVar[Literal["method", "baseline"]] = "baseline"
    picture: ClassVar[str] = "wbench.plots:merging"

    def fold(self, model: nn.Module, base: Vector) -> Fold:
        return RescaledSum(base, self.id)
