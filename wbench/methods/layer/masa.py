"""MASA: Share Your Attention: Transformer Weight Sharing via Matrix-based Dictionary Learning.

Magauiya Zhussip, Dmitriy Shopkhoev, Ammar Ali, Stamatios Lefkimmiatis, AAAI 2026, arXiv:2508.04581. The query matrices of all L
layers are combinations of a few shared matrices, likewise keys, values and outputs, each kind with its own dictionary:

    W_l (outputs, inputs) = sum_s c_ls D_s,     D (S, outputs, inputs),  c (L, S)

D and c are trained by the ordinary loss, c through a small network from an embedding of the layer that is dropped at the end.
`masa_trained` is the form for models that are trained already.

Not in the paper's main text, so this project's: width and activation of the network, and the start (atoms: the model's own initial
matrices; rows of c of squared length 1 in the mean).
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from wbench.method import Context, Stage, knob
from wbench.methods.layer.atom_sharing import HOLDER, AtomSharing
from wbench.methods.layer.shared_linear import CoefficientNet, Dictionary
from wbench.recipe import Recipe


def one_hot(layers: int, atoms: int, how: str) -> Tensor:
    """Return coefficients (layers, atoms) that tie layers to one matrix each.

    Args:
        layers: Rows.
        atoms: Columns.
        how: `repeat`: layer l has matrix l mod atoms; `sequential`: runs of neighbours share one.
    """
    index = torch.arange(layers)
    return torch.eye(atoms)[index % atoms if how == "repeat" else index * atoms // layers]


class MASA(AtomSharing):
    """Train attention whose matrices are mixed from a few that all layers share.

    Usage:
        `model = MASA(n_atoms=2).prepare(model)`; after training `model = method.finish(model)`
    """

    id: ClassVar[str] = "masa"
    title: ClassVar[str] = "Matrix atom sharing in attention"
    stage: ClassVar[Stage] = "layer"

    coef: Literal["mlp", "free", "repeat", "sequential"] = knob(
        "mlp", doc="Coefficients in training: by a network, free, or fixed so that layers are tied in turn or in runs."
    )
    emb_dim: int = knob(
        16, 1, 1024, slider=(4, 64), scale="log", unit="features", doc="Features of a layer's embedding."
    )
    mlp_width: int = knob(
        64, 1, 4096, slider=(16, 256), scale="log", unit="features", doc="Width of the coefficient network."
    )

    def prepare(self, model: nn.Module, ctx: Context | Recipe | None = None) -> nn.Module:
        places = self.places(model)
        holder, rng = nn.ModuleDict(), Context.of(ctx).rng
        for kind, names in places.items():
            weights = torch.stack([model.get_submodule(name).weight.detach() for name in names])  # type: ignore[misc]
            layers, count = len(names), self.count(len(names), max(1, len(names) // 3))
            atoms = weights[[place * layers // count for place in range(count)]]
            fixed = self.coef in {"repeat", "sequential"}
            rows: Tensor | CoefficientNet = one_hot(layers, count, self.coef)
            if self.coef == "mlp":
                rows = CoefficientNet(layers, count, self.emb_dim, self.mlp_width, rng).to(weights)
            elif not fixed:
                rows = torch.randn(layers, count, generator=rng) / count**0.5
            holder[f"{kind}0"] = Dictionary(atoms, rows, trainable=not fixed)
            self.share(model, names, holder[f"{kind}0"])  # type: ignore[arg-type]
        model.add_module(HOLDER, holder)
        return model

    def param_groups(self, model: nn.Module, ctx: Context | None = None) -> list[dict[str, Any]]:
        # weight decay on both factors only balances their norms
        named = getattr(model, HOLDER).named_parameters() if hasattr(model, HOLDER) else ()
        return [{"params": [value for name, value in named if not name.endswith("atoms")], "weight_decay": 0.0}]

    def finish(self, model: nn.Module, ctx: Context | None = None) -> nn.Module:
        with torch.no_grad():
            for dictionary in getattr(model, HOLDER).values():
                dictionary.export()
        return model
