r"""GradNormLoRP: Gradient Weight-Normalized Low-Rank Projection for Efficient LLM Training.

Jia-Hong Huang, Yixian Shen, Hongyi Zhu, Stevan Rudinac, Evangelos Kanoulas, 2024, arXiv:2412.19616.

Each weight vector is a length times a direction, the direction gets a low-rank update, and the gradients of the two factors
are themselves projected to a lower rank, where Adam keeps its moments:

$$ W = M \frac{V}{\lVert V \rVert_{row}}, \quad V = W_0 + \tfrac{\alpha}{r} I J, \qquad
   D \in \{\nabla I, \nabla J\}: \quad R = D P^\top, \quad D' = \mathrm{Adam}(R) P $$

$W_0$: (O, I), frozen; $I$: (O, r), zero at the start; $J$: (r, I); $M$: (O, 1); $P$: GaLore's projection of the shorter side, of
rank $r_g \le r$, renewed every T steps. As $I = 0$ at first, the gradient of $J$ is zero and its first subspace is that of unit
vectors: only $r_g$ rows of $J$ train until the first refresh, as with the authors. The name's "GradNorm" is no balancing of
gradients: weights are normalised, gradients projected.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import torch
from pydantic import model_validator
from torch import nn

from wbench.errors import FitError, KnobError
from wbench.method import AdaptedLayer, Adapter, Context, Paper, knob
from wbench.methods.adapter.dora import DoRALayer, check_rows
from wbench.methods.adapter.lora import LoRALayer
from wbench.methods.optimizer.galore import GaLore
from wbench.methods.optimizer.q_galore import QGaLoreAdamW
from wbench.recipe import Recipe

if TYPE_CHECKING:
    import pandas as pd


class GradNormLoRP(Adapter):
    """Fine-tune normalised weights by a low-rank product whose gradients are projected; brings adapter and optimizer.

    Usage:
        `model = method.prepare(model)`, `opt = method.optimizer(model, wb.Recipe(lr=1e-2))`, train, `model = method.finish(model)`.
    """

    id: ClassVar[str] = "gradnormlorp"
    title: ClassVar[str] = "GradNormLoRP: normalised weights, low-rank update, projected gradients"
    vectorizes: ClassVar[bool] = True
    paper: ClassVar[Paper | None] = Paper(
        "Gradient Weight-Normalized Low-Rank Projection for Efficient LLM Training",
        "Huang, Shen, Zhu, Rudinac, Kanoulas", 2024, "2412.19616", "AAAI 2025",
    )  # fmt: skip
    topics: ClassVar[tuple[str, ...]] = ("fine-tuning", "low-rank", "optimizer memory", "weight normalisation")
    fidelity: ClassVar[Literal["paper", "code", "inferred"]] = "code"
    dtypes: ClassVar[tuple[torch.dtype, ...]] = (torch.float32, torch.float64, torch.bfloat16)
    picture: ClassVar[str] = "wbench.plots:rows"

    rank: int = knob(8, 1, 8192, scale="log", slider=(1, 64), doc="Rank of the product.")
    proj_rank: int = knob(
        4, 1, 8192, scale="log", slider=(1, 64), doc="Rank of the factors' projected gradients; at most `rank`."
    )
    lora_alpha: float | None = knob(
        None,
        1e-3,
        65536.0,
        scale="log",
        slider=(1.0, 256.0),
        doc="The product's scale is lora_alpha / rank; none: twice the rank.",
    )
    update_proj_gap: int = knob(
        25,
        1,
        10**9,
        scale="log",
        slider=(5, 1000),
        unit="steps",
        doc="Steps between new subspaces (paper: 250 and 500).",
    )
    scale: float = knob(
        1.0, 1e-4, 100.0, scale="log", slider=(0.1, 8.0), doc="Multiplies the projected step (paper: 0.25 and 4)."
    )
    proj_type: Literal["std", "full"] = knob(
        "std", doc="Project the shorter side (the code), or both (the paper's formula)."
    )
    normalize: bool = knob(True, doc="Normalise the weight vectors; off: LoRA with projected gradients.")
    detach_norm: bool = knob(False, doc="Take the lengths as constants in the backward pass, as DoRA does.")
    state_bits: Literal[8, 32] = knob(32, doc="Bits of the moments; 8 needs bitsandbytes.")
    dropout: float = knob(0.0, 0.0, 0.9, slider=(0.0, 0.3), doc="Dropout on the low-rank path's input.")

    @model_validator(mode="after")
    def _projection_fits(self) -> Self:
        if self.proj_rank > self.rank:
            raise KnobError(
                f"gradnormlorp: proj_rank {self.proj_rank} must be <= rank {self.rank}: a factor's shorter side is the rank"
            )
        return self

    @property
    def scaling(self) -> float:
        """Factor of the product, lora_alpha / rank."""
        return 2.0 if self.lora_alpha is None else self.lora_alpha / self.rank

    def adapt(self, linear: nn.Linear, name: str) -> AdaptedLayer:
        limit = min(linear.in_features, linear.out_features)
        if self.rank > limit:
            raise FitError(
                f"gradnormlorp: rank must be between 1 and {limit} for '{name}' of shape {tuple(linear.weight.shape)}, got {self.rank}"
            )
        if not self.normalize:
            return LoRALayer(linear, self.rank, self.scaling, self.dropout)
        check_rows(linear, name, self.id)
        return DoRALayer(linear, self.rank, self.scaling, self.dropout, self.detach_norm)

    def param_groups(self, model: nn.Module, ctx: Context | None = None) -> list[dict[str, Any]]:
        lengths = [layer.magnitude for layer in self.adapted(model).values() if isinstance(layer, DoRALayer)]
        return [{"params": lengths, "weight_decay": 0.0}] if lengths else []

    def optimizer(self, model: nn.Module, ctx: Context | Recipe | None = None) -> torch.optim.Optimizer:
        context = Context.of(ctx, methods=(self,))
        places = {
            id(factor): f"{name}.{kind}"
            for name, layer in self.adapted(model).items()
            for kind, factor in (("lora_a", layer.lora_a), ("lora_b", layer.lora_b))
        }
        special = {
            "rank": self.proj_rank, "update_proj_gap": self.update_proj_gap, "scale": self.scale, "proj_type": self.proj_type,
            "state_on_switch": "keep", "proj_bits": 16, "weight_bits": 16, "state_bits": self.state_bits, "gamma_proj": 1.0,
            "cos_threshold": 2.0, "queue_size": 1, "signed_cos": False, "longest_gap": context.total_steps,
        }  # fmt: skip
        recipe, groups = context.recipe, GaLore.grouped(context, model, places, special)
        return QGaLoreAdamW(
            groups, torch.Generator(), lr=recipe.lr, betas=recipe.betas, eps=1e-6, weight_decay=recipe.weight_decay
        )

    def observe(self, model: nn.Module, ctx: Context | None = None) -> pd.DataFrame | None:
        """Return how each weight vector has changed.

        Columns: layer, row, length (over the frozen one's), turn (1 - cosine of the angle to it).
        """
        import pandas as pd

        frames = []
        for name, layer in self.adapted(model).items():
            old, new = layer.base.weight.detach().float().cpu(), layer.merged_weight().detach().float().cpu()
            turn = 1.0 - nn.functional.cosine_similarity(old, new, dim=1)
            length = new.norm(dim=1) / old.norm(dim=1)
            frames.append(pd.DataFrame({
                "layer": name, "row": range(len(old)), "length": length.numpy(), "turn": turn.clamp_min(0.0).numpy()
            }))  # fmt: skip
        return pd.concat(frames, ignore_index=True) if frames else None
