"""Whether the vectorised step gives what the plain loop gives."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence

from torch import Tensor

from wbench.recipe import Recipe
from wbench.runs import Run, RunStore
from wbench.task import Task
from wbench.training.job import Methods, describe
from wbench.training.population import train_population
from wbench.training.stack import CannotVectorizeError
from wbench.training.train import train_job

SCALES = (1.0, 2.0, 0.5)


def disagreement(task: Task | str, methods: Methods | None, recipe: Recipe, members: Sequence[Methods] = ()) -> float:
    """Train runs of differing seeds and rates one by one and together, and return how far they come apart.

    Args:
        task: The task.
        methods: The methods of all runs.
        recipe: Steps and peak rate; the runs train at 1, 2 and half times that rate.
        members: The methods of each run, where they differ in knobs too.

    Returns:
        The largest difference of any logged loss or any final number, over 1 plus its size.

    Raises:
        CannotVectorizeError: If they cannot train together; says why.
    """
    chosen: list[Methods | None] = [*members] or [methods] * len(SCALES)
    jobs = [
        describe(task, own, seed=seed, recipe=recipe.replace(lr=recipe.lr * SCALES[seed % len(SCALES)]), probes=())
        for seed, own in enumerate(chosen)
    ]
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        together = train_population(jobs, RunStore(one), always=True)
        if together.alone:
            raise CannotVectorizeError(next(iter(together.alone.values())))
        alone = [train_job(job, RunStore(other)) for job in jobs]
        return max(_apart(together.runs[i], run) for i, run in enumerate(alone))


def _apart(run: Run, other: Run) -> float:
    if run.status != other.status:
        return float("inf")
    apart = [_relative(run.tensors("weights")[name], part) for name, part in other.tensors("weights").items()]
    mine, theirs = run.metrics, other.metrics
    if list(mine["name"]) != list(theirs["name"]) or list(mine["step"]) != list(theirs["step"]):
        return float("inf")
    losses = mine["name"].isin(["loss", "mean_loss"])
    pairs = zip(mine["value"][losses], theirs["value"][losses], strict=True)
    return max(apart + [abs(a - b) / (1.0 + abs(b)) for a, b in pairs])


def _relative(one: Tensor, other: Tensor) -> float:
    if not one.numel() or not one.is_floating_point():
        return 0.0 if one.equal(other) else float("inf")
    return float(((one - other).abs() / (1.0 + other.abs())).max())
