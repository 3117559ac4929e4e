"""Attention whose query and key projections act through their product alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wbench.ops.lattice import stats_quantize, threshold_distance


class JointAttention(nn.Module):
    """Attention whose logits come from the quantised product of query and key projections.

    Args:
        attention: With linear layers `q`, `k`, `v`, `o`, `heads` and `core.causal`.
        bits: Of the product's codes; `None`: not quantised.
        boundary_range: Of the product's entries that may move while annealing, where those are frozen at all.

    Attributes:
        q: Query weight, (D, D), trained; gone once `baked`.
        k: Key weight, (D, D).
        product: (heads, D, D), of a baked layer.
        annealing: Whether entries of the product away from a threshold pass no gradient.
        core: Softmax and sum where they are quantised: `core(queries, keys, values, scale)`.
        inputs: What products are taken with, from the input; the identity unless quantised.
    """

    annealing: Tensor
    heads: int
    width: int
    core: nn.Module | None
    inputs: nn.Module

    def __init__(self, attention: nn.Module, bits: int | None, boundary_range: float) -> None:
        super().__init__()
        for part in ("q", "k"):
            self.register_parameter(part, nn.Parameter(attention.get_submodule(part).weight.detach().clone()))  # type: ignore[arg-type]
        given: Any = attention
        self.heads, self.width = given.heads, self.factors()[0].shape[1]
        self.v, self.o = given.v, given.o
        self.causal, self.bits, self.boundary_range = bool(given.core.causal), bits, boundary_range
        self.core, self.inputs = None, nn.Identity()
        self.register_buffer("annealing", torch.zeros((), dtype=torch.bool))

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return query and key weight, (D, D) each."""
        q, k = self._parameters["q"], self._parameters["k"]
        return q, k  # type: ignore[return-value]

    def rows(self) -> Tensor:
        """Return the products of all heads, stacked: (heads * D, D)."""
        q, k = (part.unflatten(0, (self.heads, -1)) for part in self.factors())
        return (q.transpose(1, 2) @ k).flatten(0, 1)

    def products(self) -> Tensor:
        """Return the products as they are used: (heads, D, D)."""
        baked = self._parameters.get("product")
        if baked is not None:
            return baked
        rows = self.rows()
        if self.bits is not None:
            held = self.annealing & (threshold_distance(rows, self.bits) > self.boundary_range)
            rows = stats_quantize(torch.where(held, rows.detach(), rows), self.bits)
        return rows.unflatten(0, (self.heads, -1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the input's shape; (samples, length, D)."""
        values = self.v(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        given = self.inputs(x)
        queries = torch.einsum("btd,hde->bhte", given, self.products())
        keys = given.unsqueeze(1).expand(-1, self.heads, -1, -1)
        scale = float(self.width / self.heads) ** -0.5
        if self.core is not None:
            mixed = self.core(queries, keys, values, scale)
        else:
            mixed = F.scaled_dot_product_attention(queries, keys, values, is_causal=self.causal, scale=scale)
        return self.o(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    @torch.no_grad()
    def bake(self, product: Tensor | None = None) -> None:
        """Keep the quantised products alone.

        Args:
            product: (heads, D, D); default: the present ones.
        """
        value = self.products().detach().clone() if product is None else product
        for part in ("q", "k"):
            self._parameters.pop(part, None)
        self.register_parameter("product", nn.Parameter(value))
