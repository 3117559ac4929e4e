"""Linear layers whose weights are mixed from matrices that one owner holds for several of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def weight_of(layer: nn.Module) -> Tensor:
    """Return a linear layer's weight, (outputs, inputs), without its gradient.

    Args:
        layer: `nn.Linear` or `SharedLinear`.
    """
    weight: Tensor = layer.weight  # type: ignore[assignment]
    return weight.detach()


class CoefficientNet(nn.Module):
    """Coefficients of each layer by a small network from an embedding of the layer.

    Args:
        layers: Rows.
        atoms: Columns.
        emb_dim: Features of an embedding.
        width: Hidden features of the three linear layers.
        rng: Draws the start; the mean squared length of a row is 1.
    """

    def __init__(self, layers: int, atoms: int, emb_dim: int, width: int, rng: torch.Generator) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(layers, emb_dim, generator=rng))
        self.net = nn.Sequential(
            nn.Linear(emb_dim, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, atoms)
        )
        with torch.no_grad():
            for layer in self.net:
                if isinstance(layer, nn.Linear):
                    layer.weight.normal_(std=layer.in_features**-0.5, generator=rng)
                    layer.bias.zero_()
            self.net[-1].weight /= self().square().sum(1).mean().sqrt()

    def forward(self, index: int | slice = slice(None)) -> Tensor:
        """Return the coefficients of one layer, (atoms,), or of all, (layers, atoms)."""
        return self.net(self.embedding[index])  # type: ignore[no-any-return]


class Dictionary(nn.Module):
    """Owner of the atoms that some layers share: W_l = sum_s c_ls D_s.

    Args:
        atoms: (atoms, outputs, inputs).
        coefficients: (layers, atoms), or a network that gives them.
        trainable: Whether coefficients given as numbers are trained.
    """

    def __init__(self, atoms: Tensor, coefficients: Tensor | CoefficientNet, trainable: bool = True) -> None:
        super().__init__()
        self.atoms = nn.Parameter(atoms.detach().clone())
        self.net = coefficients if isinstance(coefficients, CoefficientNet) else None
        if isinstance(coefficients, Tensor):
            self.coefficients = nn.Parameter(coefficients.detach().clone().to(atoms), requires_grad=trainable)

    def rows(self, index: int | slice = slice(None)) -> Tensor:
        """Return the coefficients of one layer or of all."""
        return self.net(index) if self.net is not None else self.coefficients[index]

    def forward(self, index: int) -> Tensor:
        """Return the weight of a layer, (outputs, inputs), mixed in float32 at least."""
        wide = self.atoms if self.atoms.dtype == torch.float64 else self.atoms.float()
        return torch.tensordot(self.rows(index).to(wide), wide, 1).to(self.atoms.dtype)

    def export(self) -> None:
        """Keep the coefficients as numbers and drop the network, which only training needs."""
        if self.net is not None:
            values = torch.stack([self.rows(place) for place in range(len(self.net.embedding))])
            self.net, self.coefficients = None, nn.Parameter(values.detach())


class SharedLinear(nn.Module):
    """A linear layer with a weight of a dictionary and, where given, a low-rank part of its own.

    Args:
        owner: The dictionary; not registered here, so that each tensor has one owner.
        index: The layer's row of coefficients.
        bias: (outputs,) or `None`.
        factors: `up` (outputs, rank) and `down` (rank, inputs), or `None`.
    """

    def __init__(
        self,
        owner: Dictionary | None,
        index: int,
        bias: nn.Parameter | None,
        factors: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.owner, self.index, self.bias = (owner,), index, bias
        self.up = None if factors is None else nn.Parameter(factors[0].clone())
        self.down = None if factors is None else nn.Parameter(factors[1].clone())

    @property
    def weight(self) -> Tensor:
        """The layer's weight, (outputs, inputs)."""
        own = None if self.up is None else self.up @ self.down
        shared = None if self.owner[0] is None else self.owner[0](self.index)
        return shared if own is None else own if shared is None else shared + own  # type: ignore[return-value]

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., outputs); input (..., inputs)."""
        if self.owner[0] is None:
            return F.linear(F.linear(x, self.down), self.up, self.bias)  # type: ignore[arg-type]
        return F.linear(x, self.weight, self.bias)
