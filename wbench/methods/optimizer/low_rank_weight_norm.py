r"""The optimizer in GradNormLoRP's repository that normalises full weights, which is not what the paper writes.

Huang, Shen, Zhu, Rudinac, Kanoulas, 2024, arXiv:2412.19616, `LowRankWeightNormAdamW`. Each weight vector (a row of a matrix, or
a whole vector) is a length $g$ times the direction of $v$; both take a step of Adam, $v$ as in GaLore:

$$ g \leftarrow \lVert v \rVert, \quad \nabla v = G, \quad \nabla g = \langle G, v / \lVert v \rVert \rangle, \quad
   v \leftarrow v - \eta\,\alpha\,\mathrm{Adam}(G P^\top) P, \quad g \leftarrow g - \eta\,\mathrm{Adam}(\nabla g), \quad
   w = g\, v / \lVert v \rVert $$

$G$: the gradient where the model stands, at $w$, with no tangential part taken out. As $g$ is set to $\lVert v \rVert$ at each step,
what it learns lives for one forward pass; decay acts on both. The authors' code freezes a vector of zeros (a bias at its start)
for ever; here it gets plain Adam, and a matrix with a row of zeros is refused.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from wbench.errors import FitError
from wbench.method import Context, Paper, knob
from wbench.methods.optimizer.galore import GaLore, GaLoreAdamW
from wbench.ops.norms import frobenius
from wbench.recipe import Recipe


def length_of(vectors: Tensor) -> Tensor:
    """Return the length of each row of a matrix, (rows, 1, ...), or of a vector, a scalar.

    Args:
        vectors: (rows, ...) or (n).
    """
    return frobenius(vectors, "row" if vectors.ndim > 1 else "tensor")


def direction_of(vectors: Tensor) -> Tensor:
    """Return the rows of a matrix, or a vector, over their lengths; zeros where there is none.

    Args:
        vectors: (rows, ...) or (n).
    """
    length = length_of(vectors)
    return torch.where(length > 0, vectors / length, torch.zeros_like(length))


class LowRankWeightNormAdamW(GaLoreAdamW):
    """GaLoreAdamW on the directions of weight vectors, AdamW on their lengths.

    Args:
        groups: As in `GaLoreAdamW`.
        **options: As in `GaLoreAdamW`.
    """

    def _update(self, param: Tensor, group: dict[str, Any], index: int) -> None:
        state = self.state[param]
        if not state and (param.ndim > 1 or bool(param.any())):
            state["v"], state["g"] = param.detach().clone(), {"step": 0}
        if "v" not in state:
            super()._update(param, group, index)
            return
        v, moments = state["v"], state["g"]
        length, along = length_of(v), param.grad * direction_of(v)  # type: ignore[operator]
        param.copy_(v)
        super()._update(param, group, index)
        v.copy_(param)
        moments["step"] += 1
        step, size = self._adam(moments, along.flatten(1).sum(1).view_as(length) if v.ndim > 1 else along.sum(), group)
        length = (length - size * step) * (1.0 - group["lr"] * group["weight_decay"])
        param.copy_(length * direction_of(v))


class LowRankWeightNorm(GaLore):
    """GaLore on the directions of all weight vectors, beside a length of each that is forgotten after every step.

    Usage:
        `opt = LowRankWeightNorm(rank=8).optimizer(model, wb.Recipe(lr=1e-2))`
    """

    id: ClassVar[str] = "low_rank_weight_norm"
    title: ClassVar[str] = "GradNormLoRP's optimizer of full weights: low-rank steps of normalised rows"
    vectorizes: ClassVar[bool] = True
    paper: ClassVar[Paper | None] = Paper(
        "Gradient Weight-Normalized Low-Rank Projection for Efficient LLM Training",
        "Huang, Shen, Zhu, Rudinac, Kanoulas", 2024, "2412.19616", "AAAI 2025",
    )  # fmt: skip
    topics: ClassVar[tuple[str, ...]] = ("low-rank", "optimizer memory", "weight normalisation")
    kind: ClassVar[Literal["method", "baseline"]] = "baseline"

    state_on_switch: Literal["keep"] = knob("keep", doc="Moments at a new subspace are kept.")
    inner: Literal["adam"] = knob("adam", doc="Optimizer of directions and lengths.")

    def optimizer(self, model: nn.Module, ctx: Context | Recipe | None = None) -> torch.optim.Optimizer:
        for name, param in model.named_parameters():
            zero = (length_of(param) == 0).flatten().nonzero().flatten().tolist() if param.ndim > 1 else []
            if param.requires_grad and zero:
                raise FitError(
                    f"{self.id}: row {zero[0]} of '{name}' is zero ({len(zero)} in all); weight normalisation is undefined there. "
                    "Freeze it (trainable= of wb.train, or requires_grad=False), or start from other weights"
                )
        return LowRankWeightNormAdamW(super().optimizer(model, ctx).param_groups)
