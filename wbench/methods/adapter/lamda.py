r"""LaMDA: Large Model Fine-Tuning via Spectrally Decomposed Low-Dimensional Adaptation.

Seyedarmin Azizi, Souvik Kundu, Massoud Pedram, 2024, arXiv:2406.12832.

A small square matrix is trained between a frozen projection down and a projection up whose columns are frozen one after
another during the first part of training, leading directions first; then the square alone learns:

$$ y = W_{main} x + b + \alpha\, B S A\, x, \qquad f(t) = \min(r, \lfloor r\, t / t_i \rfloor), \quad t_i = \eta N $$

$W$: (O, I); $A$: (r, I), frozen; $S$: (r, r), trained; $B$: (O, r), of which the first $f(t)$ columns are frozen at step $t$ of
$N$. Spectral start, from $W = U \Sigma V^\top$: $A = V_r^\top$, $S = \Sigma_r$, $B = U_r$, $W_{main} = W - \alpha B S A$.
LaMDA++ gives layers with flat spectra larger ranks under one budget. The paper's text could not be read: the start, the order
of freezing and the score of LaMDA++ are reconstructed; the authors' code has none of the spectral part.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from wbench.errors import FitError
from wbench.method import AdaptedLayer, Adapter, Context, Paper, knob
from wbench.ops.allocate import leading_energy, proportional, spectrum_of, thirds
from wbench.recipe import Recipe

if TYPE_CHECKING:
    import pandas as pd


def frozen_columns(step: int, rank: int, freeze_steps: float) -> int:
    r"""Return $f(t)$, how many columns of B are frozen.

    Args:
        step: Optimizer steps taken, from 0.
        rank: r.
        freeze_steps: $t_i$; at 0 all are frozen from the start.

    Returns:
        From 0 to r, never falling.
    """
    return rank if freeze_steps <= 0 else min(rank, math.floor(rank * step / freeze_steps))


class LaMDALayer(AdaptedLayer):
    """A frozen linear layer beside its principal part as three factors.

    Args:
        base: The layer, weight (O, I); holds W_main afterwards.
        rank: r.
        method: Settings.

    Attributes:
        a: (r, I), frozen.
        s: (r, r).
        b: (O, r).
        frozen: Number of frozen columns.
        kept: B's frozen columns during a step, which momentum and weight decay would move.
    """

    a: Tensor
    frozen: Tensor
    kept: Tensor | None = None

    def __init__(self, base: nn.Linear, rank: int, method: LaMDA) -> None:
        super().__init__(base)
        self.alpha = method.alpha
        self.dropout = nn.Dropout(method.dropout) if method.dropout else nn.Identity()
        weight = base.weight.detach()
        wide = weight if weight.dtype == torch.float64 else weight.float()
        if method.init == "reference":
            a, s = wide.new_empty(rank, base.in_features), wide.new_empty(rank, rank)
            nn.init.kaiming_uniform_(a, a=math.sqrt(5))
            nn.init.kaiming_uniform_(s, a=math.sqrt(5))
            b = wide.new_zeros(base.out_features, rank)
        else:
            u, sigma, vh = torch.linalg.svd(wide, full_matrices=False)
            a, b = vh[:rank].clone(), u[:, :rank].clone()
            s = torch.diag(sigma[:rank]) if method.init == "spectral" else wide.new_zeros(rank, rank)
        self.register_buffer("a", a)
        self.s, self.b = nn.Parameter(s), nn.Parameter(b)
        self.register_buffer("frozen", torch.zeros((), dtype=torch.int64))
        if method.init == "spectral":
            with torch.no_grad():
                base.weight.copy_(wide - self.alpha * b @ s @ a)

    def forward(self, x: Tensor) -> Tensor:
        inner = nn.functional.linear(self.dropout(x).to(self.a.dtype), self.a)
        path = nn.functional.linear(nn.functional.linear(inner, self.s), self.b)
        return self.base(x) + (self.alpha * path).to(x.dtype)

    def merged_weight(self) -> Tensor:
        product = self.alpha * self.b @ self.s @ self.a
        return (self.base.weight.to(product.dtype) + product).to(self.base.weight.dtype)


class LaMDA(Adapter):
    """Fine-tune an r x r core between singular directions of each weight; the rest is frozen, the up-projection step by step.

    Usage:
        `run = wb.train(task, LaMDA(rank=8, freeze_ratio=0.3), start=base)`. In a loop of your own: `model = lamda.prepare(model)`,
        then `lamda.attach(model, optimizer, wb.Recipe(steps=N))`, which freezes as the steps go by.
    """

    id: ClassVar[str] = "lamda"
    title: ClassVar[str] = "LaMDA: spectrally decomposed low-dimensional adaptation"
    paper: ClassVar[Paper | None] = Paper(
        "LaMDA: Large Model Fine-Tuning via Spectrally Decomposed Low-Dimensional Adaptation",
        "Azizi, Kundu, Pedram", 2024, "2406.12832", "Findings of EMNLP 2024",
    )  # fmt: skip
    topics: ClassVar[tuple[str, ...]] = ("fine-tuning", "low-rank", "adapter", "spectral initialisation")
    fidelity: ClassVar[Literal["paper", "code", "inferred"]] = "inferred"
    dtypes: ClassVar[tuple[torch.dtype, ...]] = (torch.float32, torch.float64, torch.bfloat16)
    picture: ClassVar[str] = "wbench.plots:core"

    rank: int = knob(8, 1, 8192, scale="log", slider=(1, 128), doc="Size of the square core; its mean, when allocated.")
    alpha: float = knob(1.0, 1e-3, 100.0, scale="log", slider=(0.1, 4.0), doc="Scale of the path.")
    init: Literal["spectral", "spectral_zero", "reference"] = knob(
        "spectral", doc="Start: the principal part; its directions with a zero core; random, as the authors' code."
    )
    freeze_ratio: float = knob(
        0.3, 0.0, 1.0, doc="Share of training by whose end all columns of B are frozen; 0: never trained."
    )
    allocation: Literal["uniform", "energy", "proportional"] = knob(
        "uniform",
        doc="Rank of each layer: the same; by spectrum in thirds (LaMDA++); in proportion to the energy left out.",
    )
    dropout: float = knob(0.0, 0.0, 0.9, slider=(0.0, 0.3), doc="Dropout on the path's input.")

    def ranks(self, layers: Mapping[str, nn.Linear]) -> dict[str, int]:
        """Return the rank of each layer under the method's allocation.

        Args:
            layers: Name to layer.

        Returns:
            Name to rank.

        Raises:
            FitError: If a weight is not finite, or a layer is smaller than the rank.
        """
        limits = {name: min(layer.in_features, layer.out_features) for name, layer in layers.items()}
        for name, layer in layers.items():
            if not bool(torch.isfinite(layer.weight).all()):
                raise FitError(f"lamda: the weight of layer '{name}' is not finite; it has no singular vectors")
            if self.rank > limits[name]:
                raise FitError(f"lamda: rank {self.rank} exceeds min(out, in) = {limits[name]} for '{name}'")
        if self.allocation == "uniform":
            return dict.fromkeys(layers, self.rank)
        energies = {n: leading_energy(spectrum_of(layer.weight.detach()), self.rank) for n, layer in layers.items()}
        return (thirds if self.allocation == "energy" else proportional)(energies, self.rank, limits)

    def adapt(self, linear: nn.Linear, name: str) -> AdaptedLayer:
        return self.adapt_all({name: linear})[name]

    def adapt_all(self, layers: Mapping[str, nn.Linear]) -> dict[str, AdaptedLayer]:
        ranks = self.ranks(layers)
        return {name: LaMDALayer(layer, ranks[name], self) for name, layer in layers.items()}

    def prepare(self, model: nn.Module, ctx: Context | Recipe | None = None) -> nn.Module:
        model = super().prepare(model, ctx)
        if self.freeze_ratio == 0.0:
            for layer in self._layers(model):
                layer.frozen.fill_(layer.b.shape[1])
                layer.b.requires_grad_(False)
        return model

    def after_backward(self, model: nn.Module, ctx: Context | None = None) -> None:
        """Freeze the columns that are due, before the step; log how many numbers of the adapters are still trained."""
        context = Context.of(ctx)
        moving = 0
        for layer in self._layers(model):
            rank, before = layer.b.shape[1], int(layer.frozen)
            due = max(before, frozen_columns(context.step, rank, self.freeze_ratio * context.total_steps))
            layer.frozen.fill_(due)
            if due == rank and layer.b.requires_grad:
                _release(layer.b, context.optimizer)
            if layer.b.requires_grad:
                layer.kept = layer.b.detach()[:, :due].clone()
                if layer.b.grad is not None:
                    layer.b.grad[:, :due] = 0.0
            moving += rank * rank + (rank - due) * layer.out_features
        context.log("updated", moving)

    def after_step(self, model: nn.Module, ctx: Context | None = None) -> None:
        """Put frozen columns back: momentum and weight decay have moved them."""
        with torch.no_grad():
            for layer in self._layers(model):
                if layer.kept is not None:
                    layer.b[:, : layer.kept.shape[1]] = layer.kept
                    layer.kept = None

    def _layers(self, model: nn.Module) -> list[LaMDALayer]:
        return [layer for layer in self.adapted(model).values() if isinstance(layer, LaMDALayer)]

    def observe(self, model: nn.Module, ctx: Context | None = None) -> pd.DataFrame | None:
        """Return the entries of each core and how far each column of B has turned from where it started.

        Columns: layer, row, col, value (of S), angle (degrees, of B's column `col`; NaN where it starts at zero), frozen (columns).
        """
        import pandas as pd

        context, frames = Context.of(ctx), []
        starts: dict[str, Tensor] = context.state.setdefault("lamda.start", {})
        for name, layer in self.adapted(model).items():
            if not isinstance(layer, LaMDALayer):
                continue
            b = layer.b.detach().float().cpu()
            cosine = nn.functional.cosine_similarity(b, starts.setdefault(name, b.clone()), dim=0)
            angle = torch.rad2deg(torch.acos(cosine.clamp(-1.0, 1.0)))
            angle = torch.where(starts[name].norm(dim=0) > 0, angle, math.nan)
            size = layer.s.shape[0]
            rows, cols = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
            frames.append(pd.DataFrame({
                "layer": name, "row": rows.flatten().numpy(), "col": cols.flatten().numpy(),
                "value": layer.s.detach().float().cpu().flatten().numpy(), "angle": angle[cols.flatten()].numpy(),
                "frozen": int(layer.frozen),
            }))  # fmt: skip
        return pd.concat(frames, ignore_index=True) if frames else None


def _release(param: nn.Parameter, optimizer: torch.optim.Optimizer | None) -> None:
    """Stop training a parameter and free what its optimizer keeps for it."""
    param.requires_grad_(False)
    param.grad = None
    if optimizer is None:
        return
    optimizer.state.pop(param, None)
    for group in optimizer.param_groups:
        kept: list[Any] = [index for index, other in enumerate(group["params"]) if other is not param]
        if len(kept) < len(group["params"]):
            if len(group.get("names", ())) == len(group["params"]):
                group["names"] = [group["names"][index] for index in kept]
            group["params"] = [group["params"][index] for index in kept]
