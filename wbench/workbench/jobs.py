"""The runs that were asked for and have not ended: what they say, and how far they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from wbench.training.job import Job
from wbench.workbench.engine.messages import Ended, Failed, Landscape, Message, Progress, Refused, Rows, Started, Table
from wbench.workbench.engine.trainer import Trainer
from wbench.workbench.shown import LiveRun


@dataclass
class Wanted:
    """A run that was asked for.

    Attributes:
        job: What it is.
        name: As it is called in messages.
        live: What it has said so far.
        begun: Whether it trains, or has trained.
    """

    job: Job
    name: str
    live: LiveRun
    begun: bool = False


@dataclass
class Heard:
    """What a message means for the panel.

    Attributes:
        said: What to say; empty: nothing.
        wrong: Whether something went wrong.
        more: Details.
        grown: Tables that have grown.
        ended: Whether a run has come to its end.
    """

    said: str = ""
    wrong: bool = False
    more: str = ""
    grown: set[str] = field(default_factory=set)
    ended: bool = False


class Jobs:
    """The runs that were asked for and have not ended.

    Args:
        trainer: Trains them.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._wanted: dict[int, Wanted] = {}
        self._count = 0

    def __len__(self) -> int:
        return len(self._wanted)

    def number(self) -> int:
        """Return the next free number."""
        self._count += 1
        return self._count

    def start(self, given: Sequence[tuple[dict[str, Any], Job, str]]) -> int:
        """Train runs, less those that train already.

        Args:
            given: Arguments of `train`, the job that they describe, and its name.

        Returns:
            How many are started.
        """
        known = {wanted.job.id for wanted in self._wanted.values()}
        jobs = []
        for arguments, job, name in given:
            if job.id not in known:
                number = self.number()
                self._wanted[number] = Wanted(job, name, LiveRun(job.seed, job.recipe.total_steps))
                jobs.append((number, arguments))
        if jobs:
            self._trainer.start(jobs)
        return len(jobs)

    def live(self, number: int) -> LiveRun | None:
        """Return the run of a number, while it trains.

        Args:
            number: The number.
        """
        wanted = self._wanted.get(number)
        return wanted.live if wanted is not None else None

    def training(self) -> dict[str, list[Wanted]]:
        """Return the runs that train, by their configuration."""
        found: dict[str, list[Wanted]] = {}
        for wanted in self._wanted.values():
            if wanted.begun:
                found.setdefault(wanted.job.config, []).append(wanted)
        return found

    def share(self) -> float:
        """Return how far they have come together, in [0, 1]."""
        total = sum(max(1, wanted.live.steps) for wanted in self._wanted.values())
        return min(1.0, sum(wanted.live.step for wanted in self._wanted.values()) / max(1, total))

    def hear(self, message: Message) -> Heard:
        """Take in a message.

        Args:
            message: Of the trainer; not a landscape.

        Returns:
            What it means for the panel.
        """
        wanted = None if isinstance(message, Landscape) else self._wanted.get(message.job)
        if wanted is None:
            return Heard()
        if isinstance(message, Started):
            wanted.live, wanted.begun = LiveRun(wanted.job.seed, message.steps), True
        elif isinstance(message, Rows):
            wanted.live.add_rows(message.rows)
            return Heard(self._progress(), grown={"metrics"})
        elif isinstance(message, Table):
            wanted.live.add_table(message.name, message.frame)
            return Heard(grown={message.name})
        elif isinstance(message, Progress):
            wanted.live.step, wanted.live.steps = int(message.done), int(message.total)
        elif isinstance(message, Ended | Refused | Failed):
            del self._wanted[message.job]
            return self._ended(message, wanted)
        return Heard(self._progress())

    def _progress(self) -> str:
        first = next((wanted for wanted in self._wanted.values() if wanted.begun), None)
        if first is None:
            return "Starting ..."
        more = f", one of {len(self._wanted)} runs" if len(self._wanted) > 1 else ""
        return f"Training {first.name}, seed {first.job.seed}: step {first.live.step:,} of {first.live.steps:,}{more}."

    def _ended(self, message: Ended | Refused | Failed, wanted: Wanted) -> Heard:
        if isinstance(message, Refused):
            return Heard(message.message, True, ended=True)
        if isinstance(message, Failed):
            return Heard(f"{wanted.name} failed: {message.message}", True, message.traceback, ended=True)
        left = f"; {len(self._wanted)} to go" if self._wanted else ""
        reason = f": {message.reason}" if message.reason and message.status != "stopped" else ""
        said = f"{wanted.name}, seed {wanted.job.seed}: {message.status} after {message.seconds:.1f} s{reason}{left}."
        return Heard(said, message.status == "diverged", ended=True)
