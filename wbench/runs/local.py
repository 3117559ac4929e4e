"""Runs in a local folder: written aside, then renamed."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from wbench.errors import RunError
from wbench.runs.moves import ASIDE, arrived, beside, put, put_back
from wbench.runs.place import Damaged
from wbench.runs.processes import dead
from wbench.runs.record import KEPT, OtherFormat
from wbench.runs.run import DERIVED, Run


class LocalPlace:
    """A folder with one directory a run.

    Args:
        root: The folder; made when first written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def __str__(self) -> str:
        return str(self.root)

    @property
    def url(self) -> str:
        """The folder's absolute path."""
        return str(self.root.absolute())

    @property
    def cache(self) -> Path:
        """A hidden folder beside the runs."""
        return self.root / ".index"

    def names(self) -> list[str]:
        """Return the names of the directories, sorted."""
        try:
            with os.scandir(self.root) as entries:
                return sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())
        except (FileNotFoundError, NotADirectoryError):
            return []

    def open(self, run_id: str) -> Run:
        """Return a run.

        Args:
            run_id: The run's id.

        Returns:
            The run.

        Raises:
            RunError: If there is none, or it is damaged.
        """
        path = self.root / run_id
        run = Run(path)
        if run.id != path.name:
            raise RunError(f"{path} holds run {run.id}; rename the folder to that, or delete it")
        return run

    def scan(self) -> tuple[list[Run], Damaged]:
        """Return whole runs, and where the others lie with what is wrong."""
        found: list[Run] = []
        damaged: Damaged = []
        for name in self.names():
            try:
                found.append(self.open(name))
            except RunError as error:
                if (self.root / name).exists():  # else another process deleted it meanwhile
                    damaged.append((str(self.root / name), str(error)))
        return found, damaged

    def finished(self, run_ids: Iterable[str]) -> dict[str, Run]:
        """Return those runs that are whole, and finished or diverged.

        Args:
            run_ids: Whole ids.

        Raises:
            OtherFormat: If another version of wbench wrote one of them.
        """
        found = {}
        for name in dict.fromkeys(run_ids):
            try:
                run = self.open(name)
            except OtherFormat:
                raise
            except RunError:
                continue
            if run.status in KEPT:
                found[name] = run
        return found

    def later(self, runs: Sequence[Run]) -> dict[str, list[Run]]:
        """Return the tables that were attached to runs later, each with its runs.

        Args:
            runs: Runs of this place.
        """
        found: dict[str, list[Run]] = {}
        for run in runs:
            with contextlib.suppress(OSError):
                for name in os.listdir(os.path.join(self.root, run.id, DERIVED)):
                    if name.endswith(".parquet") and not name.startswith("."):
                        found.setdefault(name.removesuffix(".parquet"), []).append(run)
        return found

    def fetch(self, runs: Sequence[Run], name: str) -> list[str]:
        """Return the paths of one table of several runs; those that have none are left out.

        Args:
            runs: The runs.
            name: The table.
        """
        file, paths = f"{name}.parquet", []
        for run in runs:
            folder = os.path.join(self.url, run.id)
            later = os.path.join(folder, DERIVED, file)
            if file in run._files:
                paths.append(os.path.join(folder, file))
            elif os.path.exists(later):
                paths.append(later)
        return paths

    def commit(self, run_id: str, write: Callable[[Path], None], kept: bool) -> Run:
        """Write a run aside, flush it, and rename it.

        Args:
            run_id: The run's id.
            write: Writes the run's files into a folder.
            kept: Whether it is finished; a finished one is never replaced.

        Returns:
            The run that lies there now.
        """
        target = self.root / run_id
        temporary = beside(target, ".tmp-")
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            temporary.mkdir()
            write(temporary)
            put(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return arrived(target)

    def delete(self, run_id: str) -> bool:
        """Move a run away, then remove its files.

        Args:
            run_id: Name of a directory.

        Returns:
            Whether there was one.

        Raises:
            RunError: If the folder cannot be written.
        """
        if run_id.startswith(".") or os.path.basename(run_id) != run_id or not (self.root / run_id).is_dir():
            return False
        aside = beside(self.root / run_id, ".gone-")
        try:
            os.rename(self.root / run_id, aside)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise RunError(f"run {run_id} cannot be deleted from {self}: {error.strerror or error}") from error
        shutil.rmtree(aside, ignore_errors=True)
        return True

    def check_writable(self) -> None:
        """Make the folder, or say why it cannot be written.

        Raises:
            RunError: If it cannot; names the folder and the cause.
        """
        probe = self.root / f".probe-{uuid.uuid4().hex}"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise RunError(
                f"runs cannot be kept in {self.root}: {error.strerror or error}; choose a writable folder: "
                "RunStore(folder), --store folder, or WBENCH_HOME=folder"
            ) from error

    def sweep(self, older_than: float) -> list[str]:
        """Remove what dead processes left half-written or half-deleted; a whole run among it is put back in its place.

        Args:
            older_than: Seconds for which another machine's folders, whose processes cannot be seen, are left alone.

        Returns:
            Names of the removed folders.
        """
        removed = []
        for path in self.root.glob(".*") if self.root.is_dir() else []:
            kind = next((kind for kind in ASIDE if path.name.startswith(kind)), "")
            parts = path.name.removeprefix(kind).rsplit("-", 2)
            if not kind or len(parts) != 3 or not parts[1].isdigit() or not path.is_dir():
                continue
            if dead(int(parts[1]), parts[2], path, older_than):
                if kind == ".old-":
                    self._restore(path, parts[0])
                shutil.rmtree(path, ignore_errors=True)
                removed.append(path.name)
        return removed

    def _restore(self, aside: Path, run_id: str) -> None:
        # a writer that was killed between its two renames left the former run under another name
        with contextlib.suppress(RunError, OSError):
            if Run(aside).id == run_id:
                put_back(aside, self.root / run_id)
