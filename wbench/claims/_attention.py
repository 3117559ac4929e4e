"""What the claims on shared attention matrices have alike: how the dense model is trained, and what is left of its numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wbench.recipe import Recipe
from wbench.tasks import Chars

if TYPE_CHECKING:
    from wbench.runs import Run

TASK = Chars(shape=(6, 48, 4, 2))
RECIPE = Recipe(
    optimizer="adamw", lr=3e-3, betas=(0.9, 0.99), weight_decay=0.1, clip=1.0, schedule="cosine", warmup=50, batch_size=16, steps=500
)  # fmt: skip
RECIPES = {
    "smoke": RECIPE.replace(steps=12, warmup=3, eval_every=12),
    "cpu": RECIPE,
    "gpu": RECIPE.replace(steps=20_000, warmup=2000),
}


def kept(run: Run, dense: Run) -> float:
    """Return the numbers of the attention's matrices over those of the dense model.

    Args:
        run: A run.
        dense: The dense model's.
    """
    return _numbers(run) / _numbers(dense)


def _numbers(run: Run) -> int:
    return sum(
        value.numel()
        for name, value in run.tensors().items()
        if (".attn." in name or name.startswith("masa.")) and value.ndim > 1
    )
