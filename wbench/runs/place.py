"""What a store asks of the place where its runs lie: a local folder, or a URL."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

from wbench.errors import RunError
from wbench.runs.run import Run

DAY = 86_400.0  # seconds
Damaged = list[tuple[str, str]]


class Unreachable(RunError):
    """The place cannot be read now, so nothing is known of its runs."""


class Place(Protocol):
    """Where runs lie. `str(place)` is shown to people, so it holds no password."""

    @property
    def url(self) -> str:
        """The path or URL, from which another process opens the same place."""

    @property
    def cache(self) -> Path:
        """A local folder in which the index of the runs may be kept."""

    def names(self) -> list[str]:
        """Ids of what lies there, whole or not."""

    def open(self, run_id: str) -> Run:
        """Return a run, or raise a `RunError` that says why it is none."""

    def scan(self) -> tuple[list[Run], Damaged]:
        """Return whole runs, and where the others lie with what is wrong."""

    def finished(self, run_ids: Iterable[str]) -> dict[str, Run]:
        """Return those runs that are whole, and finished or diverged."""

    def commit(self, run_id: str, write: Callable[[Path], None], kept: bool) -> Run:
        """Put a run there in one step; `write` writes its files into a folder. Raises `OSError` where that fails."""

    def delete(self, run_id: str) -> bool:
        """Remove a run, whole or damaged; returns whether there was one."""

    def check_writable(self) -> None:
        """Make the place, or raise a `RunError` that says why it cannot be written."""

    def sweep(self, older_than: float) -> list[str]:
        """Remove what dead writers left and return its names."""

    def later(self, runs: Sequence[Run]) -> dict[str, list[Run]]:
        """Return the tables that were attached to runs later, each with its runs."""

    def fetch(self, runs: Sequence[Run], name: str) -> list[str]:
        """Return local paths of one table of several runs; those that have none are left out."""
