"""A first run that nobody sees, so that the first run that somebody waits for begins at once."""

from __future__ import annotations

from wbench.recipe import Recipe
from wbench.runs import RunStore
from wbench.training.device import derive, seeded, threads
from wbench.training.job import describe
from wbench.training.session import Session


class _Nowhere(RunStore):
    """A store in which nothing is ever written."""

    def check_writable(self) -> None:
        """Nothing is: it need not be."""


def rehearse() -> None:
    """Do once, in memory alone, what the first run of a process is slow at: reading code and data, making first tables."""
    job = describe("digits", recipe=Recipe(steps=1, batch_size=16), device="cpu")
    with seeded(derive(job.seed, "training"), job.device), threads(job.device):
        Session(job, _Nowhere()).run()
