"""MASA of a trained model: Matrix PCA of neighbouring layers, and a low-rank rest weighted by each layer's inputs.

Zhussip, Shopkhoev, Ali, Lefkimmiatis, AAAI 2026, arXiv:2508.04581, section on models without fine-tuning. Consecutive layers are
grouped where the predictions drift most (Kullback-Leibler divergence of what norm and head make of each block's mean output). The
atoms of a group are the leading singular vectors of its stacked matrices; of each layer's rest a rank is kept by its effect on
the layer's outputs on calibration data:

    W_l ~ sum_s <D_s, W_l> D_s + [Delta_l L]_rho L^-1,     L L^T = mean of x x^T over the layer's inputs

The paper's rule for sharing the ranks is in an appendix that could not be read; here each rank goes where it gains most per number.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from wbench.errors import FitError
from wbench.method import Context, Stage, knob
from wbench.methods.layer.atom_sharing import HOLDER, AtomSharing
from wbench.methods.layer.shared_linear import Dictionary, weight_of
from wbench.ops.allocate import greedy
from wbench.ops.calibrate import layer_inputs, layer_outputs
from wbench.ops.sharing import matrix_pca, whitened_svd, whitening


def cut(drifts: list[float], groups: int) -> list[int]:
    """Return the sizes of groups of at least two neighbours, cut where the drift is largest.

    Args:
        drifts: Between each layer and the next.
        groups: How many; fewer where two each do not fit.
    """
    ends: list[int] = []
    layers = len(drifts) + 1
    for place in sorted(range(1, layers), key=lambda place: -drifts[place - 1]):
        if len(ends) < groups - 1 and all(abs(place - other) >= 2 for other in (0, layers, *ends)):
            ends.append(place)
    edges = [0, *sorted(ends), layers]
    return [high - low for low, high in zip(edges[:-1], edges[1:], strict=True)]


class MASATrained(AtomSharing):
    """Share the attention's matrices of a trained model across its layers; nothing is trained.

    Usage:
        `model = MASATrained(keep=0.8).finish(model, Context(splits=Splits(train=...)))`
    """

    id: ClassVar[str] = "masa_trained"
    title: ClassVar[str] = "Matrix atom sharing of a trained model"
    stage: ClassVar[Stage] = "transform"
    calibration_samples: ClassVar[int] = 64

    groups: int | None = knob(
        None, 1, 128, slider=(1, 6), unit="groups", doc="Groups of layers; none: 2 from 4 layers on."
    )
    keep: float = knob(0.8, 0.01, 1.0, doc="Share of the targets' numbers that is kept.")
    residual_rank: float = knob(
        0.3, 0.0, 1.0, doc="Least share of what is kept that goes to the residuals; 0: atoms alone."
    )

    def sizes(self, model: nn.Module, x: Tensor) -> list[int]:
        """Return how many consecutive blocks each group of a trained model has.

        Args:
            model: With `blocks`, `norm` and `head`.
            x: Calibration inputs.

        Raises:
            FitError: If the model lacks these and more than one group is asked for.
        """
        layers = max(len(names) for names in self.places(model).values()) // (
            len(self.targets) if self.share_types else 1
        )
        wanted = self.groups or (2 if layers >= 4 else 1)
        if wanted == 1:
            return [layers]
        if not all(hasattr(model, slot) for slot in ("blocks", "norm", "head")):
            raise FitError(
                f"masa: {type(model).__name__} has no blocks, norm and head to measure drifts with; use groups=1"
            )
        blocks = {str(index): block for index, block in enumerate(model.blocks)}  # type: ignore[arg-type]
        if len(blocks) != layers:
            raise FitError(
                f"masa: {layers} layers of {len(blocks)} blocks are chosen; grouping needs all of them, use groups=1"
            )
        with torch.no_grad():
            logs = [
                model.head(model.norm(out.mean(1))).double().log_softmax(-1)
                for out in layer_outputs(model, blocks, x).values()
            ]  # type: ignore[operator]
        return cut(
            [float((p.exp() * (p - q)).sum(-1).mean()) for p, q in zip(logs[:-1], logs[1:], strict=True)], wanted
        )

    def finish(self, model: nn.Module, ctx: Context | None = None) -> nn.Module:
        x = Context.of(ctx).calibration(self.calibration_samples)[0]
        places, sizes, holder = self.places(model), self.sizes(model, x), nn.ModuleDict()
        modules = {name: model.get_submodule(name) for names in places.values() for name in names}
        inputs = layer_inputs(model, modules, x) if self.residual_rank else {}
        budget, owners = 0, []
        parts: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
        with torch.no_grad():
            for kind, names in places.items():
                if self.share_types:
                    sizes = [len(names)]
                start = 0
                for group, size in enumerate(sizes):
                    members, start = names[start : start + size], start + size
                    size = len(members)
                    weights = torch.stack([weight_of(modules[name]) for name in members])
                    room = self.keep * weights.numel()
                    fit = int((1 - self.residual_rank) * room / (weights[0].numel() + size))
                    count = self.count(size, max(1, min(size, fit)))
                    atoms, rows, _ = matrix_pca(weights, count)
                    owner = holder[f"{kind}{group}"] = Dictionary(atoms, rows)
                    owners.append((members, owner))
                    budget += int(room) - atoms.numel() - rows.numel()
                    if self.residual_rank:
                        rest = weights - torch.tensordot(rows, atoms, 1)
                        parts |= {
                            name: whitened_svd(rest[i], whitening(inputs[name])) for i, name in enumerate(members)
                        }
            costs = {name: sum(weight_of(modules[name]).shape) for name in parts}
            ranks = greedy({name: part[1] for name, part in parts.items()}, costs, max(0, budget))
            factors = {
                name: (
                    up[:, : ranks[name]].to(weight_of(modules[name])),
                    down[: ranks[name]].to(weight_of(modules[name])),
                )
                for name, (up, _, down) in parts.items()
                if ranks[name]
            }
            for members, owner in owners:
                self.share(model, members, owner, factors)
        model.add_module(HOLDER, holder)
        return model
