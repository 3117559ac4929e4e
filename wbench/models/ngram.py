"""Small language model without attention (after Bengio et al., 2003): the last few characters through a multilayer perceptron."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wbench.models.mlp import Block


class NGram(nn.Module):
    """Embeddings of the last characters side by side, linear layers, head. Slots: `embedding`, `blocks[i].linear`, `head`.

    Args:
        vocab_size: Tokens.
        order: Characters seen, the current one included; before the first there is none (zeros).
        embedding: Features of a character.
        hidden: Features of each hidden layer; the second and later ones are residual.
        depth: Hidden layers.
    """

    def __init__(self, vocab_size: int, order: int = 8, embedding: int = 16, hidden: int = 192, depth: int = 3) -> None:
        super().__init__()
        self.order = order
        self.embedding = nn.Embedding(vocab_size, embedding)
        sizes = [order * embedding, *[hidden] * depth]
        pairs = zip(sizes[:-1], sizes[1:], strict=True)
        self.blocks = nn.Sequential(
            *(Block(a, b, nn.ReLU, None, place > 0, True) for place, (a, b) in enumerate(pairs))
        )
        self.head = nn.Linear(hidden, vocab_size)

    def features(self, tokens: Tensor) -> Tensor:
        """Return what the head sees.

        Args:
            tokens: (samples, length), int64.

        Returns:
            (samples, length, hidden).
        """
        seen = F.pad(self.embedding(tokens), (0, 0, self.order - 1, 0))
        parts = [seen[:, place : place + tokens.shape[1]] for place in range(self.order)]
        return self.blocks(torch.cat(parts, dim=-1))  # type: ignore[no-any-return]

    def forward(self, tokens: Tensor) -> Tensor:
        """Return (samples, length, vocab_size); input (samples, length), int64."""
        return self.head(self.features(tokens))  # type: ignore[no-any-return]
