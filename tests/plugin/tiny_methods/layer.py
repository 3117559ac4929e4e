r"""Factorized layers: $W \approx (U_r \sqrt{\Sigma_r}) (\sqrt{\Sigma_r} V_r^\top)$, trained as two layers."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from wbench.errors import FitError
from wbench.method import Layer, Paper, knob


class Factorized(Layer):
    """Replaces a linear layer by two thin ones, from its leading singular directions.

    Usage:
        `model = Factorized(rank=4).prepare(model)`
    """

    id: ClassVar[str] = "factorized"
    title: ClassVar[str] = "Factorized linear layers"
    paper: ClassVar[Paper | None] = Paper(
        "Low-rank matrix factorization for Deep Neural Network training with high-dimensional output targets",
        "Sainath, Kingsbury, Sindhwani, Arisoy, Ramabhadran", 2013, venue="ICASSP 2013",
    )  # fmt: skip
    topics: ClassVar[tuple[str, ...]] = ("low-rank",)
    layer_types: ClassVar[tuple[type[nn.Module], ...]] = (nn.Linear,)

    rank: int = knob(4, 1, 8192, scale="log", slider=(1, 64), doc="Width between the two layers.")

    def substitute(self, module: nn.Module, name: str) -> nn.Module:
        """Return the two layers."""
        weight = module.weight.detach()
        if self.rank > min(weight.shape):
            raise FitError(
                f"factorized: rank {self.rank} exceeds min(out, in) = {min(weight.shape)} of '{name}'; use a smaller rank"
            )
        u, s, vh = torch.linalg.svd(weight, full_matrices=False)
        root = s[: self.rank].sqrt()
        down = nn.Linear(weight.shape[1], self.rank, bias=False)
        up = nn.Linear(self.rank, weight.shape[0], bias=module.bias is not None)
        with torch.no_grad():
            down.weight.copy_(root[:, None] * vh[: self.rank])
            up.weight.copy_(u[:, : self.rank] * root)
            if module.bias is not None:
                up.bias.copy_(module.bias)
        return nn.Sequential(down, up)
