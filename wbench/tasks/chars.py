"""Next character of plays or of a novel."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from wbench.datasets import load_text
from wbench.errors import KnobError
from wbench.knobs import knob
from wbench.models import GPT, NGram
from wbench.recipe import Recipe
from wbench.splits import Split, Splits, WindowSplit
from wbench.task import Infer, Task

ALPHABET = "\n" + "".join(map(chr, range(32, 127)))
SIZES = {"tiny": (1, 48, 4), "small": (2, 80, 4), "large": (8, 384, 8)}
_BASE = Recipe(
    optimizer="adamw", lr=3e-3, schedule="cosine", warmup=30, batch_size=24, steps=400, clip=1.0, betas=(0.9, 0.99)
)


def encode(text: str) -> Tensor:
    """Return the index of each character in `ALPHABET`; anything else counts as a space.

    Args:
        text: The text.

    Returns:
        (length,), int64.
    """
    table = np.full(128, ALPHABET.index(" "), dtype=np.int64)
    table[[ord(char) for char in ALPHABET]] = range(len(ALPHABET))
    codes = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    return torch.from_numpy(table[np.where(codes < 128, codes, ord(" "))])


class Chars(Task):
    """Predict the next character; the metric `loss` is in nats per character.

    Train: windows at random from the first eight tenths of the text. Validation and test: up to 256 and 512 fixed
    windows from the beginnings of the ninth and the last tenth.

    Usage:
        `wb.train(wb.tasks.Chars(text="austen"))`
    """

    id: ClassVar[str] = "chars"
    title: ClassVar[str] = "Next character of eight plays, or of a novel"
    kind: ClassVar[Literal["classification", "regression", "tokens"]] = "tokens"
    recipes: ClassVar[dict[str, Recipe]] = {
        "smoke": _BASE.replace(steps=12, warmup=3, batch_size=8, eval_every=12),
        "cpu": _BASE,
        "gpu": _BASE.replace(steps=20_000, warmup=500, batch_size=128, lr=1e-3),
    }

    text: Literal["shakespeare", "austen"] = knob("shakespeare", doc="Which text.")
    architecture: Literal["gpt", "ngram"] = knob("gpt", doc="Model; ngram: an MLP over the last eight characters.")
    size: Literal["tiny", "small", "large"] = knob("small", doc="Size of the GPT; large is meant for a GPU.")
    shape: tuple[int, ...] = knob(
        (), 1, 16384, doc="Depth, width, heads and feed-forward ratio of the GPT, in place of those of `size`."
    )
    context: int = knob(64, 8, 1024, scale="log", unit="characters", doc="Characters the model sees.")
    tie: bool = knob(False, doc="Share the head's weight with the embedding.")

    def data(self, seed: int) -> Splits:
        """Return train, valid and test: characters (samples, context) and the characters that follow each."""
        tokens = encode(load_text(self.text))
        first, second = int(0.8 * len(tokens)), int(0.9 * len(tokens))
        return Splits(
            train=WindowSplit(tokens[:first], self.context),
            valid=WindowSplit(tokens[first : min(second, first + 256 * self.context + 1)], self.context),
            test=WindowSplit(tokens[second : second + 512 * self.context + 1], self.context),
        )

    def model(self, seed: int) -> nn.Module:
        """Return the model chosen by `architecture` and, of a GPT, `size`: (samples, length) -> (samples, length, 96).

        Raises:
            KnobError: If `shape` is not four numbers.
        """
        if len(self.shape) not in {0, 4}:
            raise KnobError(
                f"chars: shape={self.shape} is not allowed; allowed: depth, width, heads and feed-forward ratio, e.g. (6, 48, 4, 2)"
            )
        depth, width, heads, ratio = self.shape or (*SIZES[self.size], 4)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if self.architecture == "ngram":
                return NGram(len(ALPHABET))
            return GPT(len(ALPHABET), self.context, depth, width, heads, ratio, tie=self.tie)

    def metrics(
        self, model: nn.Module, split: Split, infer: Infer, items: dict[str, Tensor] | None = None
    ) -> dict[str, float]:
        """Evaluate on one split; of the training text on its first 256 windows.

        Args:
            model: The model.
            split: What to evaluate on.
            infer: `batch -> output`.
            items: Filled with per-window scores, when given.

        Returns:
            `loss`, nats per character.
        """
        if isinstance(split, WindowSplit) and len(split) > 4096:
            split = WindowSplit(split.tokens[: 256 * self.context + 1], self.context)
        return super().metrics(model, split, infer, items)
