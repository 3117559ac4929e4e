"""Attention with separate q, k, v and o, and the transformer block that ViT and GPT share."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from wbench.errors import FitError


class AttentionCore(nn.Module):
    """softmax(q k^T / sqrt(d)) v.

    Args:
        causal: Whether a position sees only itself and those before.
    """

    def __init__(self, causal: bool = False) -> None:
        super().__init__()
        self.causal = causal

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return (samples, heads, length, width / heads); q, k and v are of the same shape."""
        return F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)


class Attention(nn.Module):
    """Multi-head attention. Slots: `q`, `k`, `v`, `o` (linear layers) and `core`.

    Args:
        width: Features.
        heads: Number of heads; divides `width`.
        causal: As in `AttentionCore`.

    Raises:
        FitError: If `heads` does not divide `width`.
    """

    def __init__(self, width: int, heads: int, causal: bool = False) -> None:
        super().__init__()
        if width % heads:
            raise FitError(f"Attention: heads={heads} does not divide width={width}; choose a divisor")
        self.heads = heads
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.core = AttentionCore(causal)

    def forward(self, x: Tensor) -> Tensor:
        """Return the input's shape; input (samples, length, width)."""
        q, k, v = (part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.q, self.k, self.v))
        return self.o(self.core(q, k, v).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Feedforward(nn.Module):
    """fc2(act(fc1(x))).

    Args:
        width: Features.
        ratio: Hidden features over `width`.
        act: Makes the activation.
    """

    def __init__(self, width: int, ratio: int = 4, act: Callable[[], nn.Module] = nn.GELU) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, ratio * width)
        self.act = act()
        self.fc2 = nn.Linear(ratio * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the input's shape; input (..., width)."""
        return self.fc2(self.act(self.fc1(x)))  # type: ignore[no-any-return]


class TransformerBlock(nn.Module):
    """Pre-norm block. Slots: `norm1`, `attn`, `norm2`, `mlp`.

    Args:
        width: Features.
        heads: Number of heads.
        ratio: Hidden features of the feed-forward part over `width`.
        causal: As in `AttentionCore`.
        act: Makes the activation.
        dropout: On the two branches.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        ratio: int = 4,
        causal: bool = False,
        act: Callable[[], nn.Module] = nn.GELU,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width), Attention(width, heads, causal)
        self.norm2, self.mlp = nn.LayerNorm(width), Feedforward(width, ratio, act)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Return the input's shape; input (samples, length, width)."""
        x = x + self.dropout(self.attn(self.norm1(x)))
        return x + self.dropout(self.mlp(self.norm2(x)))  # type: ignore[no-any-return]


def init_transformer(model: nn.Module, depth: int) -> None:
    """Draw the initial weights, all normal: embeddings with deviation 0.02, linear layers with 0.5 / sqrt(inputs).

    The latter is GPT-2's 0.02 at its width, kept in proportion at ours. Where a branch joins the residual stream it is
    smaller by sqrt(2 depth), as there. Biases are zero.

    Args:
        model: Changed in place.
        depth: Number of blocks.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            joins = name.endswith((".o", ".fc2"))
            nn.init.normal_(module.weight, std=0.5 / ((2 * depth if joins else 1) * module.in_features) ** 0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        elif isinstance(getattr(module, "position", None), nn.Parameter):
            nn.init.normal_(module.position, std=0.02)
