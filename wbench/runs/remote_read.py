"""Runs at a URL, read: from their records alone, many at once; files are fetched when asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from wbench.errors import RunError
from wbench.runs.place import Damaged, Unreachable
from wbench.runs.record import KEPT, OtherFormat, check_sizes, parse
from wbench.runs.remote_files import ATTEMPT, PARTIAL, RECORD, Files
from wbench.runs.remote_run import RemoteRun
from wbench.runs.run import DERIVED, Run


class RemoteReader:
    """A folder at a URL, as it is read.

    Args:
        url: E.g. `s3://bucket/runs`.

    Raises:
        RunError: If fsspec does not know the protocol, or the URL names no folder.
        MissingPackageError: If the protocol's package is not installed.
    """

    def __init__(self, url: str) -> None:
        self.files = Files(url)
        self.url = self.files.url

    def __str__(self) -> str:
        return self.files.shown

    @property
    def cache(self) -> Path:
        """The local folder of what was fetched from here."""
        return self.files.cache

    def names(self) -> list[str]:
        """Return the ids of what lies there, whole or not, sorted."""
        return self.files.folders()

    def open(self, run_id: str) -> Run:
        """Return a run from its record alone.

        Args:
            run_id: The run's id.

        Returns:
            The run; its files are fetched when asked for.

        Raises:
            RunError: If there is none, or its record is damaged.
        """
        if not run_id or run_id.startswith(".") or "/" in run_id:
            raise RunError(f"no run {run_id!r} in {self}")
        for name in (RECORD, PARTIAL, RECORD):  # the last, as it may just have taken the place of the other
            text = self.files.read(f"{run_id}/{name}")
            if text is not None:
                return self._run(run_id, name, text)
        raise RunError(f"no run {run_id!r} in {self}: run.json is missing")

    def _run(self, run_id: str, name: str, text: bytes) -> RemoteRun:
        where = f"{self}/{run_id}/{name}"
        record = parse(text, where)
        attempt = record.get("attempt")
        if record["id"] != run_id:
            raise RunError(f"{where} holds run {record['id']}; delete it")
        if not isinstance(attempt, str) or not ATTEMPT.fullmatch(attempt):
            raise RunError(f"{where} is damaged: attempt={attempt!r} is no folder of an attempt")
        if (record["status"] in KEPT) != (name == RECORD):
            raise RunError(f"{where} was changed: status={record['status']!r} does not belong there")
        return RemoteRun(self.files, record)

    def _read(
        self, listing: Mapping[str, Mapping[str, int]], names: Iterable[str]
    ) -> Iterator[tuple[str, Run | RunError]]:
        # the records of several runs, read at once, and compared with the sizes that the listing has
        chosen = {run_id: next(n for n in (RECORD, PARTIAL) if n in listing[run_id]) for run_id in names}
        texts = self.files.read_many([f"{run_id}/{name}" for run_id, name in chosen.items()])
        for run_id, name in chosen.items():
            text = texts.get(f"{run_id}/{name}")
            try:
                if text is None:  # deleted or finished since it was listed
                    yield run_id, self.open(run_id)
                    continue
                run = self._run(run_id, name, text)
                start = f"{run.attempt}/"
                sizes = {
                    path.removeprefix(start): size for path, size in listing[run_id].items() if path.startswith(start)
                }
                check_sizes({"files": run._files}, sizes, f"{self}/{run_id}")
                yield run_id, run
            except Unreachable:
                raise
            except RunError as error:
                yield run_id, error

    def scan(self) -> tuple[list[Run], Damaged]:
        """Return whole runs, and where the others lie with what is wrong."""
        listing = self.files.listing()
        found: list[Run] = []
        damaged: Damaged = []
        for run_id, run in self._read(
            listing, [name for name, files in listing.items() if {RECORD, PARTIAL} & files.keys()]
        ):
            if isinstance(run, Run):
                found.append(run)
            elif self.files.exists(f"{run_id}/{RECORD}") or self.files.exists(f"{run_id}/{PARTIAL}"):
                damaged.append((f"{self}/{run_id}", str(run)))
        return found, damaged

    def finished(self, run_ids: Iterable[str]) -> dict[str, Run]:
        """Return those runs that are whole, and finished or diverged: one listing, then all records at once.

        Args:
            run_ids: Whole ids.
        """
        listing = self.files.listing()
        asked = [name for name in dict.fromkeys(run_ids) if RECORD in listing.get(name, {})]
        found = {}
        for name, run in self._read(listing, asked):
            if isinstance(run, OtherFormat):
                raise run
            if isinstance(run, Run) and run.status in KEPT:
                found[name] = run
        return found

    def later(self, runs: Sequence[Run]) -> dict[str, list[Run]]:
        """Return the tables that were attached to runs later, each with its runs.

        Args:
            runs: Runs of this place.
        """
        known = {run.remote: run for run in runs if isinstance(run, RemoteRun)}
        found: dict[str, list[Run]] = {}
        for run_id, files in self.files.listing().items():
            for path in files:
                attempt, _, name = path.partition(f"/{DERIVED}/")
                run = known.get(f"{run_id}/{attempt}")
                if run is not None and name.endswith(".parquet"):
                    found.setdefault(name.removesuffix(".parquet"), []).append(run)
        return found

    def fetch(self, runs: Sequence[Run], name: str) -> list[str]:
        """Fetch one table of several runs at once, as far as it is not here yet.

        Args:
            runs: Runs of this place.
            name: The table.

        Returns:
            Local paths; runs that have no such table are left out.
        """
        file, known = f"{name}.parquet", [run for run in runs if isinstance(run, RemoteRun)]
        own = [run for run in known if file in run._files]
        attached = self.later(runs).get(name, []) if len(own) < len(known) else []
        later = [run for run in attached if isinstance(run, RemoteRun) and file not in run._files]
        self.files.fetch([(f"{run.remote}/{file}", run.path / file) for run in own if not run.is_here(file)])
        self.files.fetch([(f"{run.remote}/{DERIVED}/{file}", run.path / DERIVED / file) for run in later])
        paths = [run.path / file for run in own] + [run.path / DERIVED / file for run in later]
        return [str(path.absolute()) for path in paths]
