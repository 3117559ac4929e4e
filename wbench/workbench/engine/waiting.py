"""Jobs that wait for their training, and which of them can train together."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from wbench.training.families import family, obstacle
from wbench.training.job import Job


@dataclass
class Wanted:
    """A job that waits.

    Attributes:
        key: Its number.
        job: What it is.
        alone: Whether it trains by itself: the first of those asked for together, and what cannot be stacked.
    """

    key: int
    job: Job
    alone: bool


def next_group(jobs: deque[Wanted]) -> list[Wanted]:
    """Take the first job out, and those that wait and can train with it in one vectorised step.

    Args:
        jobs: At least one.

    Returns:
        One job or several.
    """
    first = jobs.popleft()
    if first.alone or obstacle(first.job):
        return [first]
    kind, taken, group = family(first.job), {first.job.id}, [first]
    for wanted in list(jobs):
        able = not wanted.alone and wanted.job.id not in taken and not obstacle(wanted.job)
        if able and family(wanted.job) == kind:
            taken.add(wanted.job.id)
            group.append(wanted)
            jobs.remove(wanted)
    return group
