"""What the worker tells of its jobs; `job` is the number under which the caller has started one."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Started:
    """A job begins; what was told of it before no longer counts (a run that could not be stacked begins again, alone).

    Attributes:
        job: The job.
        run_id: Id of its run.
        steps: Steps in all; 0 where nothing is trained in steps (a population is combined, an estimator fitted).
        cached: Whether the store has the run already; `Ended` follows at once.
    """

    job: int
    run_id: str
    steps: int
    cached: bool


@dataclass(frozen=True)
class Rows:
    """Metric rows, as recorded.

    Attributes:
        job: The job.
        rows: Each with step, phase, split, name, value.
    """

    job: int
    rows: list[dict[str, Any]]


@dataclass(frozen=True)
class Table:
    """One record of a probe, or of what a method observes.

    Attributes:
        job: The job.
        name: `histogram`, `spectrum`, `effective_lr` or `method.<id>`.
        frame: The record's rows; its first column is `step`.
    """

    job: int
    name: str
    frame: pd.DataFrame


@dataclass(frozen=True)
class Progress:
    """How far a job has come that trains together with others, in one vectorised step.

    Attributes:
        job: The job.
        done: Steps done.
        total: Steps in all.
    """

    job: int
    done: float
    total: float


@dataclass(frozen=True)
class Landscape:
    """The loss around a job's weights, along two random directions (Li et al., 2018, arXiv:1712.09913).

    Attributes:
        job: The job.
        frame: Columns alpha, beta, loss; no rows where it cannot be computed.
        points: Points an axis; 0 where it cannot be computed.
        last: Whether no finer one follows: this one is kept with the run, as its table `landscape`.
        step: Step of the training at which it was taken; `None`: of the finished run.
        note: Why it cannot be computed, or not be kept; mostly empty.
    """

    job: int
    frame: pd.DataFrame
    points: int
    last: bool
    step: int | None = None
    note: str = ""


@dataclass(frozen=True)
class Ended:
    """A job has come to its end.

    Attributes:
        job: The job.
        run_id: Id of the run in the store, or `None` where none was kept (it was stopped before it began).
        status: `finished`, `diverged` or `stopped`.
        reason: Why, where it did not finish.
        seconds: That its training took; of a run found in the store, when it was trained.
    """

    job: int
    run_id: str | None
    status: str
    reason: str
    seconds: float


@dataclass(frozen=True)
class Refused:
    """A job that is not allowed, or does not fit: nothing was trained, nothing is kept.

    Attributes:
        job: The job.
        kind: Name of the error's class.
        message: What was given, what is allowed and what to do.
    """

    job: int
    kind: str
    message: str


@dataclass(frozen=True)
class Failed:
    """A job that broke down.

    Attributes:
        job: The job.
        kind: Name of the error's class.
        message: The error's own text.
        traceback: Where it happened; empty where the process died.
        run_id: Id of the run that was kept as `failed`, or `None`.
    """

    job: int
    kind: str
    message: str
    traceback: str
    run_id: str | None = None


def failure(job: int, error: Exception, run_id: str | None = None, full: bool = False) -> Failed:
    """Return what is told of a job that an error has ended.

    Args:
        job: The job.
        error: What was raised.
        run_id: Id of the run that was kept.
        full: Whether memory ran out.
    """
    text = str(error) or type(error).__name__
    where = "".join(traceback.format_exception(error))
    return Failed(job, type(error).__name__, f"out of memory: {text}" if full else text, where, run_id)


Message = Started | Rows | Table | Progress | Landscape | Ended | Refused | Failed


@dataclass(frozen=True)
class Ready:
    """The worker has loaded everything and listens; never reaches the caller."""
