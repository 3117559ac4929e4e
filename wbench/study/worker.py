"""What a worker does: train one run, or several in one vectorised step, and put them into the store."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wbench.runs import RunStore
from wbench.training.job import describe, find
from wbench.training.population import BUDGET, OnSteps, train_population
from wbench.training.train import train_job

Result = tuple[str | None, str]  # the run's id, or why it has to train alone
BEAT = 0.2  # seconds between notes on how far a worker has come


def train_alone(arguments: dict[str, Any], url: str, beat: str = "") -> list[Result]:
    """Train one run in the plain loop.

    Args:
        arguments: Of `train`; picklable.
        url: The run store's folder or address.
        beat: File that receives how far it has come; none: an empty name.

    Returns:
        The run's id.
    """
    store, job = RunStore(url), describe(**arguments)
    known = find(job, store)
    if known is not None:
        return [(known.id, "")]
    note = _noted(beat)
    total = job.recipe.total_steps
    return [(train_job(job, store, on_step=lambda step, _: note(step, total)).id, "")]


def train_together(
    arguments: Sequence[dict[str, Any]], url: str, budget: float = BUDGET, always: bool = False, beat: str = ""
) -> list[Result]:
    """Train runs in one vectorised step.

    Args:
        arguments: Of `train`, one a run; of one family.
        url: The run store's folder or address.
        budget: GiB for the members of a step.
        always: As in `train_population`.
        beat: As in `train_alone`.

    Returns:
        For each the run's id, or why it has to train alone.
    """
    store, jobs = RunStore(url), [describe(**part) for part in arguments]
    results: list[Result] = [(None, "")] * len(jobs)
    left: list[int] = []
    for index, job in enumerate(jobs):
        known = find(job, store)
        if known is None:
            left.append(index)
        else:
            results[index] = (known.id, "")
    population = train_population(
        [jobs[index] for index in left], store, budget=budget, always=always, on_step=_noted(beat)
    )
    for place, index in enumerate(left):
        run = population.runs.get(place)
        results[index] = (run.id, "") if run is not None else (None, population.alone[place])
    return results


def _noted(beat: str) -> OnSteps:
    last = 0.0

    def note(done: float, total: float) -> None:
        nonlocal last
        now = time.monotonic()
        if beat and now - last >= BEAT:
            last = now
            write_beat(beat, done / total)

    return note


def write_beat(file: str, share: float) -> None:
    """Note how far a worker has come; a note that cannot be written is left out.

    Args:
        file: Where.
        share: In [0, 1].
    """
    aside = f"{file}.{os.getpid()}"
    try:
        Path(aside).write_text(json.dumps(share), encoding="utf-8")
        os.replace(aside, file)
    except OSError:
        return


def read_beat(file: str) -> float:
    """Return how far a worker has come.

    Args:
        file: From `write_beat`; 0 where there is none yet.
    """
    try:
        return float(json.loads(Path(file).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return 0.0
