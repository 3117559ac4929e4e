"""Matrices of several layers as mixtures of shared atoms (Zhussip et al., 2026, arXiv:2508.04581): what both forms of MASA share.

W_l (outputs, inputs) = sum_s c_ls D_s [+ up_l down_l],     D (S, outputs, inputs),  c (L, S)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor, nn

from wbench.errors import FitError
from wbench.method import Context, Paper, knob
from wbench.method.layerwise import LayerwiseMethod
from wbench.method.select import replace_module
from wbench.methods.layer.shared_linear import Dictionary, SharedLinear, weight_of

if TYPE_CHECKING:
    import pandas as pd

HOLDER = "masa"
Places = dict[str, list[str]]


class AtomSharing(LayerwiseMethod):
    """What both forms share: which layers, how they are replaced, how a finished model is rebuilt and observed."""

    fidelity: ClassVar[Literal["paper", "code", "inferred"]] = "inferred"
    result: ClassVar[Literal["plain", "rebuilt"]] = "rebuilt"
    paper: ClassVar[Paper | None] = Paper(
        "Share Your Attention: Transformer Weight Sharing via Matrix-based Dictionary Learning",
        "Zhussip, Shopkhoev, Ali, Lefkimmiatis", 2026, "2508.04581",
    )  # fmt: skip
    topics: ClassVar[tuple[str, ...]] = ("weight sharing", "compression", "attention", "dictionary learning")
    layer_types: ClassVar[tuple[type[nn.Module], ...]] = (nn.Linear, SharedLinear)
    dtypes: ClassVar[tuple[torch.dtype, ...]] = (torch.float32, torch.float64, torch.bfloat16)
    picture: ClassVar[str] = "wbench.plots:sharing"

    targets: Literal["qkvo", "qkv", "qk", "q", "k", "v", "o"] = knob(
        "qkvo", doc="Which of a block's linear layers, by name."
    )
    n_atoms: int | None = knob(
        None, 1, 4096, slider=(1, 12), unit="matrices", doc="Atoms a dictionary; none: automatic."
    )
    share_types: bool = knob(False, doc="One dictionary for all targets; needs equal shapes.")

    def places(self, model: nn.Module) -> Places:
        """Return the layers of each dictionary, in the model's order.

        Args:
            model: The model.

        Raises:
            FitError: If there are none, or layers that would share have different shapes.
        """
        found: Places = {}
        chosen = self.select(model)
        for name in chosen:
            leaf = name.rpartition(".")[2]
            if len(leaf) == 1 and leaf in self.targets:
                found.setdefault("all" if self.share_types else leaf, []).append(name)
        if not found:
            raise FitError(
                f"masa: the model {type(model).__name__} has no linear layers named {', '.join(self.targets)}; split fused ones"
            )
        for kind, names in found.items():
            shapes = {name: tuple(weight_of(chosen[name]).shape) for name in names}
            odd = next((name for name in names if shapes[name] != shapes[names[0]]), None)
            if odd is not None:
                raise FitError(
                    f"masa: layers '{names[0]}' {shapes[names[0]]} and '{odd}' {shapes[odd]} have different shapes for {kind}; group them separately"
                )
        return found

    def count(self, layers: int, automatic: int) -> int:
        """Return the atoms of a dictionary.

        Args:
            layers: That share it.
            automatic: Where `n_atoms` is none.

        Raises:
            FitError: If there would be more than layers.
        """
        count = self.n_atoms or automatic
        if count > layers:
            raise FitError(f"masa: n_atoms must be between 1 and the number of layers ({layers}), got {count}")
        return count

    def share(
        self,
        model: nn.Module,
        names: list[str],
        owner: Dictionary,
        factors: Mapping[str, tuple[Tensor, Tensor]] | None = None,
    ) -> None:
        """Put layers that use a dictionary in the place of linear ones.

        Args:
            model: Changed in place.
            names: Layers, in the order of the dictionary's rows.
            owner: The dictionary.
            factors: Layer name to the low-rank part of its own.
        """
        for index, name in enumerate(names):
            layer = model.get_submodule(name)
            replace_module(model, name, SharedLinear(owner, index, layer.bias, (factors or {}).get(name)))  # type: ignore[arg-type]

    def restore(self, model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
        holder = nn.ModuleDict()
        for kind, names in self.places(model).items():
            group = 0
            while names:
                key = f"{HOLDER}.{kind}{group}"
                atoms, rows = state[f"{key}.atoms"], state[f"{key}.coefficients"]
                members, names, group = names[: len(rows)], names[len(rows) :], group + 1
                owner = holder[key.rpartition(".")[2]] = Dictionary(atoms, rows)
                held = {name: (state[f"{name}.up"], state[f"{name}.down"]) for name in members if f"{name}.up" in state}
                self.share(model, members, owner, held)
        model.add_module(HOLDER, holder)
        model.load_state_dict(dict(state))
        return model

    def observe(self, model: nn.Module, ctx: Context | None = None) -> pd.DataFrame | None:
        """Return coefficients, and the spectrum of the stacked matrices.

        Columns: what (`coefficient`, `spectrum`), dictionary, layer, index (atom, or place in the spectrum), value; singular values
        are divided by the first.
        """
        import pandas as pd

        rows: list[tuple[str, str, int, int, float]] = []
        with torch.no_grad():
            for name, owner in getattr(model, HOLDER).items() if hasattr(model, HOLDER) else ():
                for layer, line in enumerate(owner.rows().float().cpu().tolist()):
                    rows += [("coefficient", name, layer, atom, value) for atom, value in enumerate(line)]
            for kind, names in self.places(model).items():
                stack = torch.stack([model.get_submodule(name).weight.float() for name in names])  # type: ignore[misc,operator]
                values = torch.linalg.svdvals(stack.flatten(1)).cpu()
                rows += [
                    ("spectrum", kind, 0, place, value) for place, value in enumerate((values / values[0]).tolist())
                ]
        return pd.DataFrame(rows, columns=["what", "dictionary", "layer", "index", "value"])
