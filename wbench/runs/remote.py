"""Runs at a URL: uploaded aside, then named by a record that is put last.

    <url>/<run>/<attempt>/metrics.parquet ...      one folder for each attempt at writing the run
    <url>/<run>/run.json                           a finished or diverged run: names its attempt, created once, never replaced
    <url>/<run>/partial.json                       a stopped or failed run, valid while there is no run.json

A record exists or does not, and the files of two attempts never mix. Two files decide, rather than one, as a URL can
create a file only where there is none, but not replace one only if it is still the one that was read.
"""

from __future__ import annotations

import contextlib
import errno
import json
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path

from wbench.errors import RunError
from wbench.runs.files import write_json
from wbench.runs.place import Unreachable
from wbench.runs.record import KEPT, OtherFormat
from wbench.runs.remote_files import PARTIAL, RECORD
from wbench.runs.remote_read import RemoteReader
from wbench.runs.remote_run import RemoteRun
from wbench.runs.run import Run


class RemotePlace(RemoteReader):
    """A folder at a URL, as it is written; the arguments are those of `RemoteReader`."""

    def commit(self, run_id: str, write: Callable[[Path], None], kept: bool) -> Run:
        """Upload a run into a folder of its own, then put the record that names it.

        Args:
            run_id: The run's id.
            write: Writes the run's files into a folder.
            kept: Whether it is finished or diverged; such a run is never replaced.

        Returns:
            The run that lies there now.

        Raises:
            OSError: If it cannot be written, here or there; nothing is left of it.
        """
        attempt, begun = uuid.uuid4().hex, False
        try:
            there = self._whole(run_id)
            if there is not None and there.status in KEPT:
                return there
            with tempfile.TemporaryDirectory(prefix="wbench-") as name:
                folder = Path(name)
                write(folder)
                record = json.loads((folder / RECORD).read_text(encoding="utf-8")) | {"attempt": attempt}
                write_json(folder / RECORD, record)
                begun = True
                self.files.upload({folder / file: f"{run_id}/{attempt}/{file}" for file in record["files"]})
                text = (folder / RECORD).read_bytes()
            run = self._publish(run_id, text, attempt) if kept else self._publish_partial(run_id, text, there)
        except BaseException as error:
            if begun:
                self._discard(run_id, attempt)
            if not isinstance(error, Exception) or isinstance(error, OSError):
                raise
            if isinstance(error, RunError) and not isinstance(error, Unreachable):
                raise
            code = errno.EHOSTUNREACH if isinstance(error, Unreachable) else errno.EIO
            raise OSError(code, self.files.reason(error)) from self.files.cause(error)
        if getattr(run, "attempt", attempt) != attempt:
            self._discard(run_id, attempt)
        return run

    def _whole(self, run_id: str) -> RemoteRun | None:
        listing = {run_id: self.files.sizes(run_id)}
        if not {RECORD, PARTIAL} & listing[run_id].keys():
            return None
        [(_, run)] = self._read(listing, [run_id])
        if isinstance(run, OtherFormat):
            raise run
        return run if isinstance(run, RemoteRun) else None

    def _publish(self, run_id: str, text: bytes, attempt: str) -> Run:
        partial = self.files.read(f"{run_id}/{PARTIAL}")
        for _ in range(8):
            try:
                self.files.put(f"{run_id}/{RECORD}", text, new=True)
            except FileExistsError:
                there = self._whole(run_id)
                if there is None:  # damaged, or deleted meanwhile
                    self.files.remove(f"{run_id}/{RECORD}")
                    continue
                if there.attempt != attempt:
                    return there
            with contextlib.suppress(RunError, OSError):  # what is left is swept later
                self.files.remove(f"{run_id}/{PARTIAL}")
                if partial is not None:
                    self._discard(run_id, self._run(run_id, PARTIAL, partial).attempt)
            return self._run(run_id, RECORD, text)
        raise OSError(errno.EBUSY, "other processes keep writing the same run")

    def _publish_partial(self, run_id: str, text: bytes, former: RemoteRun | None) -> Run:
        self.files.put(f"{run_id}/{PARTIAL}", text)
        if former is not None:
            self._discard(run_id, former.attempt)
        return self.open(run_id)  # a finished one, if it came meanwhile

    def _discard(self, run_id: str, attempt: str) -> None:
        with contextlib.suppress(RunError, OSError):  # what is left is swept later
            self.files.remove_folder(f"{run_id}/{attempt}")

    def delete(self, run_id: str) -> bool:
        """Remove a run: its records first, so that it is gone at once.

        Args:
            run_id: Its id.

        Returns:
            Whether there was one.

        Raises:
            RunError: If it cannot be removed.
        """
        if not run_id or run_id.startswith(".") or "/" in run_id:
            return False
        files = self.files.sizes(run_id)
        if not files:
            return False
        try:
            for name in (PARTIAL, RECORD):
                if name in files:
                    self.files.remove(f"{run_id}/{name}")
            self.files.remove_folder(run_id)
        except OSError as error:
            raise RunError(f"run {run_id} cannot be deleted from {self}: {error.strerror or error}") from error
        self.files.forget(run_id)
        return True

    def check_writable(self) -> None:
        """Write a file and remove it.

        Raises:
            RunError: If that fails; names the URL and the cause.
        """
        try:
            self.files.now()
        except OSError as error:
            raise RunError(
                f"runs cannot be kept in {self}: {error.strerror or error}; check the address, that the bucket exists, "
                "and your rights, or choose another store"
            ) from error

    def sweep(self, older_than: float) -> list[str]:
        """Remove attempts that no record names, and records that a finished run has replaced.

        Args:
            older_than: Seconds since an attempt's last file was written, by the clock of the server.

        Returns:
            Names of what was removed.

        Raises:
            RunError: If the place cannot be written.
        """
        removed: list[str] = []
        try:
            now = self.files.now()
            for path, newest in self.files.attempts().items():
                if now - newest >= older_than and not self._named(path):
                    self.files.remove_folder(path)
                    removed.append(path)
            for run_id, files in self.files.listing().items():
                if {RECORD, PARTIAL} <= files.keys() and self._whole(run_id) is not None:
                    self.files.remove(f"{run_id}/{PARTIAL}")
        except OSError as error:
            raise RunError(f"{self} cannot be swept: {error.strerror or error}") from error
        return removed

    def _named(self, path: str) -> bool:
        run_id, attempt = path.split("/")[:2]
        texts = [self.files.read(f"{run_id}/{name}") for name in (RECORD, PARTIAL)]
        return any(attempt.encode() in text for text in texts if text is not None)
