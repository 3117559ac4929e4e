"""Linear layers of low rank, trained from scratch or cut from trained weights: what sharing across layers is compared with.

W (outputs, inputs) ~ up (outputs, r) down (r, inputs). Of trained weights the leading part of the singular value decomposition, of
the weight itself (Eckart and Young, 1936) or of W L with L L^T the autocorrelation of the layer's inputs, which changes the layer's
outputs least among matrices of the rank (Wang et al., 2025, SVD-LLM, arXiv:2403.07378).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from wbench.errors import FitError
from wbench.method import Context, Paper, Stage, knob
from wbench.method.layerwise import LINEAR, LayerwiseMethod
from wbench.method.select import replace_module
from wbench.methods.layer.shared_linear import SharedLinear, weight_of
from wbench.recipe import Recipe


class LowRank(LayerwiseMethod):
    """Train linear layers of low rank.

    Usage:
        `model = LowRank(layers="blocks.*.attn.*").prepare(model)`
    """

    id: ClassVar[str] = "low_rank"
    title: ClassVar[str] = "Low-rank linear layers"
    paper: ClassVar[Paper | None] = Paper(
        "SVD-LLM: Truncation-aware Singular Value Decomposition for Large Language Model Compression",
        "Wang, Zheng, Wan, Zhang", 2025, "2403.07378",
    )  # fmt: skip
    topics: ClassVar[tuple[str, ...]] = ("compression", "low rank")
    stage: ClassVar[Stage] = "layer"
    kind: ClassVar[Literal["method", "baseline"]] = "baseline"
    result: ClassVar[Literal["plain", "rebuilt"]] = "rebuilt"
    layer_types: ClassVar[tuple[type[nn.Module], ...]] = LINEAR
    dtypes: ClassVar[tuple[torch.dtype, ...]] = (torch.float32, torch.float64, torch.bfloat16)

    keep: float = knob(0.8, 0.001, 1.0, doc="Share of a layer's numbers that is kept, where no rank is given.")
    rank: int | None = knob(None, 1, 65536, slider=(1, 256), unit="ranks", doc="Rank of each layer; none: by `keep`.")

    def rank_of(self, layer: nn.Linear, name: str) -> int:
        """Return the rank of a layer.

        Args:
            layer: The layer.
            name: Its name.

        Raises:
            FitError: If the rank exceeds what the layer can have.
        """
        (rows, columns), most = layer.weight.shape, min(layer.weight.shape)
        rank = self.rank or max(1, int(self.keep * rows * columns / (rows + columns)))
        if rank > most:
            raise FitError(
                f"low_rank: rank={rank} exceeds {most}, the smaller side of layer '{name}' {rows} x {columns}; lower it"
            )
        return rank

    def prepare(self, model: nn.Module, ctx: Context | Recipe | None = None) -> nn.Module:
        ranks = {name: self.rank_of(layer, name) for name, layer in self.select(model).items()}  # type: ignore[arg-type]
        rng = Context.of(ctx).rng
        for name, rank in ranks.items():
            weight = weight_of(model.get_submodule(name))
            up, down = (
                torch.randn(*at, generator=rng).to(weight) for at in ((len(weight), rank), (rank, weight.shape[1]))
            )
            model = self.put(model, name, up / rank**0.5, down * weight.std())
        return model

    @staticmethod
    def put(model: nn.Module, name: str, up: Tensor, down: Tensor) -> nn.Module:
        """Return the model with a layer replaced by two factors.

        Args:
            model: Changed in place.
            name: The layer.
            up: (outputs, rank).
            down: (rank, inputs).
        """
        return replace_module(model, name, SharedLinear(None, 0, model.get_submodule(name).bias, (up, down)))  # type: ignore[arg-type]

    def restore(self, model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
        for name in self.select(model):
            model = self.put(model, name, state[f"{name}.up"], state[f"{name}.down"])
        model.load_state_dict(dict(state))
        return model
