"""Runs in a local folder: written aside, then renamed."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from wbench.errors import RunError
from wbench.runs.files import sync
from wbench.runs.place import Damaged
from wbench.runs.processes import dead, locked, machine
from wbench.runs.record import KEPT, OtherFormat
from wbench.runs.run import DERIVED, Run

OCCUPIED = {errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR}
ASIDE = (".tmp-", ".old-", ".gone-")  # being written; moved out of the way of a new one; being deleted


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
        temporary = self._aside(".tmp-", run_id)
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            temporary.mkdir()
            write(temporary)
            self._rename(temporary, run_id)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return self._arrived(run_id)

    def _arrived(self, run_id: str) -> Run:
        # for a moment there is none, while another process replaces it
        for _ in range(20):
            with contextlib.suppress(RunError):
                return Run(self.root / run_id)
            time.sleep(0.005)
        return Run(self.root / run_id)

    def _rename(self, temporary: Path, run_id: str) -> None:
        target = self.root / run_id
        for _ in range(8):
            try:
                os.rename(temporary, target)  # fails where a run lies already
                break
            except OSError as error:
                if error.errno not in OCCUPIED:
                    raise
            with locked(self.root):  # so that what is moved away is what was looked at
                if _kept(target):
                    return
                if self._replace(temporary, target):
                    break
        else:
            raise OSError(errno.EBUSY, "other processes keep writing the same run")
        sync(self.root)

    def _replace(self, temporary: Path, target: Path) -> bool:
        aside = self._aside(".old-", target.name)
        with contextlib.suppress(FileNotFoundError):
            os.rename(target, aside)
        if _kept(aside):  # where nothing can be locked, another process may have put it there since we looked
            self._put_back(aside, target.name)
            return False
        try:
            os.rename(temporary, target)
        except OSError as error:
            self._put_back(aside, target.name)
            if error.errno not in OCCUPIED:
                raise
            return False
        shutil.rmtree(aside, ignore_errors=True)
        return True

    def _aside(self, kind: str, run_id: str) -> Path:
        return self.root / f"{kind}{run_id}-{os.getpid()}-{machine()}{uuid.uuid4().hex[:8]}"

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
        aside = self._aside(".gone-", run_id)
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
                self._put_back(aside, run_id)

    def _put_back(self, aside: Path, run_id: str) -> None:
        # undo a move aside, unless another process has filled the place with a run that is not to be replaced
        target = self.root / run_id
        for _ in range(8):
            try:
                os.rename(aside, target)
                return
            except FileNotFoundError:
                return
            except OSError as error:
                if error.errno not in OCCUPIED:
                    return  # it stays aside, from where `sweep` puts it back
            if not _kept(aside) or _kept(target):
                shutil.rmtree(aside, ignore_errors=True)
                return
            lesser = self._aside(".old-", run_id)
            with contextlib.suppress(FileNotFoundError):
                os.rename(target, lesser)
            if _kept(lesser):
                self._put_back(lesser, run_id)
            shutil.rmtree(lesser, ignore_errors=True)


def _kept(folder: Path) -> bool:
    # whether a whole run lies there that is not to be replaced
    try:
        return Run(folder).status in KEPT
    except OtherFormat:
        return True
    except RunError:
        return False
