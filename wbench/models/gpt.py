"""Small causal language model."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from wbench.errors import DataError
from wbench.models.attention import TransformerBlock, init_transformer


class GPT(nn.Module):
    """Embedding, pre-norm blocks, head.

    Slots: `embedding`, `positions`; `blocks[i].attn.q`, `.k`, `.v`, `.o`, `.core`; `blocks[i].mlp.fc1`, `.act`, `.fc2`;
    `blocks[i].norm1`, `.norm2`; `norm`, `head`.

    Args:
        vocab_size: Tokens.
        context: Longest input.
        depth: Blocks.
        width: Features.
        heads: Heads; divides `width`.
        mlp_ratio: Hidden features of the feed-forward part over `width`.
        tie: Share the head's weight with the embedding.
        act: Makes an activation.
        dropout: On the blocks' branches.
    """

    def __init__(
        self,
        vocab_size: int,
        context: int,
        depth: int = 4,
        width: int = 128,
        heads: int = 4,
        mlp_ratio: int = 4,
        tie: bool = False,
        act: Callable[[], nn.Module] = nn.GELU,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.context = context
        self.embedding = nn.Embedding(vocab_size, width)
        self.positions = nn.Embedding(context, width)
        blocks = (TransformerBlock(width, heads, mlp_ratio, True, act, dropout) for _ in range(depth))
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocab_size, bias=False)
        init_transformer(self, depth)
        if tie:
            self.head.weight = self.embedding.weight

    def features(self, tokens: Tensor) -> Tensor:
        """Return what the head sees.

        Args:
            tokens: (samples, length), int64, length at most `context`.

        Returns:
            (samples, length, width).

        Raises:
            DataError: If the input is longer than `context`.
        """
        if tokens.shape[1] > self.context:
            raise DataError(f"GPT: {tokens.shape[1]} tokens exceed the context of {self.context}; shorten the input")
        where = torch.arange(tokens.shape[1], device=tokens.device)
        return self.norm(self.blocks(self.embedding(tokens) + self.positions(where)))  # type: ignore[no-any-return]

    def forward(self, tokens: Tensor) -> Tensor:
        """Return (samples, length, vocab_size); input (samples, length), int64."""
        return self.head(self.features(tokens))  # type: ignore[no-any-return]
