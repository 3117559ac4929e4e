"""What is told of a study, while it runs and after."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

from wbench.runs import Run

Arguments = dict[str, Any]  # of `train`


@dataclass(frozen=True)
class Progress:
    """How far a study has come.

    Attributes:
        done: Runs that are finished, diverged or failed.
        total: All runs.
        share: Work done, in [0, 1]; counts the steps of runs that are under way.
        seconds_left: An estimate; `None` as long as nothing is known.
        failed: Runs that failed.
        note: Something to tell, e.g. why runs train one by one; mostly empty.
    """

    done: int
    total: int
    share: float
    seconds_left: float | None
    failed: int = 0
    note: str = ""


Told = Callable[[Progress], None]


@dataclass
class Unit:
    """Runs that are given to a worker as one call."""

    keys: list[Hashable]
    together: bool
    tries: int = 0
    beat: str = ""


@dataclass
class Outcome:
    """What came of many runs.

    Attributes:
        runs: Key to run, finished or diverged.
        failures: Key to reason.
        notes: What was remarkable, e.g. why runs were not stacked.
    """

    runs: dict[Any, Run] = field(default_factory=dict)
    failures: dict[Any, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
