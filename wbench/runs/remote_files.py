"""Files at a URL, through fsspec: listed, read, fetched, put, removed; every failure named."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from wbench.errors import RunError
from wbench.runs.place import Unreachable
from wbench.runs.url import Address

RECORD, PARTIAL = "run.json", "partial.json"
ATTEMPT = re.compile(r"[0-9a-f]{32}")
PROBE = ".probe-"
TIMES = ("LastModified", "last_modified", "mtime", "updated", "modified", "created")  # as protocols call it


class Files(Address):
    """The files below a URL. Paths are relative to it, with `/`; the arguments are those of `Address`."""

    @property
    def cache(self) -> Path:
        """The local folder of what is fetched."""
        home = Path(os.environ.get("WBENCH_HOME") or ".wbench")
        return home / "cache" / hashlib.sha256(self.shown.encode()).hexdigest()[:16]

    @contextlib.contextmanager
    def _reading(self, what: str = "") -> Iterator[None]:
        try:
            yield
        except RunError:
            raise
        except Exception as error:  # every protocol's package raises kinds of its own
            raise Unreachable(
                f"{self.shown}{what and '/' + what} cannot be read: {self.reason(error)}; check the address and your rights"
            ) from self.cause(error)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (RunError, FileExistsError, FileNotFoundError):
            raise
        except Exception as error:  # every protocol's package raises kinds of its own
            code = getattr(error, "errno", None) or errno.EIO
            raise OSError(code, self.reason(error)) from self.cause(error)

    def _full(self, path: str) -> str:
        return f"{self.base}/{path}"

    # --- reading ------------------------------------------------------------------------------------------------------

    def _find(self, below: str = "") -> dict[str, Mapping[str, Any]]:
        with self._reading(below):
            fs = self.fs
            fs.invalidate_cache()
            start = self._full(below).rstrip("/")
            found = fs.find(start, detail=True)
            return {path.removeprefix(self.base).lstrip("/"): info for path, info in found.items()}

    def folders(self) -> list[str]:
        """Return the names of the folders directly below the URL, sorted; hidden ones left out."""
        with self._reading():
            fs = self.fs
            fs.invalidate_cache()
            try:
                found = fs.ls(self.base, detail=True)
            except FileNotFoundError:
                return []
            names = [info["name"].rstrip("/").rsplit("/", 1)[-1] for info in found if info["type"] == "directory"]
            return sorted(name for name in names if not name.startswith("."))

    def listing(self) -> dict[str, dict[str, int]]:
        """Return every file: name of the run to path within it to bytes."""
        found: dict[str, dict[str, int]] = {}
        for path, info in self._find().items():
            name, slash, rest = path.partition("/")
            if slash and not name.startswith("."):
                found.setdefault(name, {})[rest] = int(info["size"])
        return dict(sorted(found.items()))

    def sizes(self, folder: str) -> dict[str, int]:
        """Return the files of one folder: path within it to bytes.

        Args:
            folder: The folder.
        """
        return {path.removeprefix(f"{folder}/"): int(info["size"]) for path, info in self._find(folder).items()}

    def attempts(self) -> dict[str, float]:
        """Return every attempt, `run/attempt`, and when its newest file was written, in seconds."""
        newest: dict[str, float] = {}
        for path, info in self._find().items():
            parts = path.split("/")
            if len(parts) > 2 and ATTEMPT.fullmatch(parts[1]):
                key = "/".join(parts[:2])
                newest[key] = max(newest.get(key, 0.0), self._when(path, info))
        return newest

    def exists(self, path: str) -> bool:
        """Return whether there is a file.

        Args:
            path: The file.
        """
        return self.read(path) is not None

    def read(self, path: str) -> bytes | None:
        """Return a small file, or `None` if there is none.

        Args:
            path: The file.
        """
        with self._reading(path):
            try:
                return bytes(self.fs.cat_file(self._full(path)))
            except FileNotFoundError:
                return None

    def read_many(self, paths: Sequence[str]) -> dict[str, bytes]:
        """Return small files, read at once; those that are not there are left out.

        Args:
            paths: The files.
        """
        if not paths:
            return {}
        found = {}
        with self._reading():
            texts = self.fs.cat([self._full(path) for path in paths], on_error="return")
            for path in paths:
                text = texts.get(self._full(path))
                if isinstance(text, BaseException) and not isinstance(text, FileNotFoundError):
                    raise text
                if isinstance(text, bytes):
                    found[path] = text
        return found

    def fetch(self, wanted: Sequence[tuple[str, Path]]) -> None:
        """Fetch files at once, each written aside and renamed.

        Args:
            wanted: Path there, and path here.

        Raises:
            RunError: If one is not there.
            Unreachable: If one cannot be read or kept.
        """
        aside = [path.parent / f".{path.name}-{uuid.uuid4().hex}" for _, path in wanted]
        try:
            for path in {path.parent for _, path in wanted}:
                path.mkdir(parents=True, exist_ok=True)
            if wanted:
                self.fs.get([self._full(path) for path, _ in wanted], [str(path) for path in aside])
            for temporary, (_, path) in zip(aside, wanted, strict=True):
                os.replace(temporary, path)
        except FileNotFoundError as error:
            raise RunError(
                f"a file of {self.shown} is missing: {self.reason(error)}; it was deleted or replaced meanwhile"
            ) from error
        except Exception as error:
            raise Unreachable(
                f"files of {self.shown} cannot be fetched into {self.cache}: {self.reason(error)}"
            ) from self.cause(error)
        finally:
            for temporary in aside:
                temporary.unlink(missing_ok=True)

    # --- writing; failures are `OSError` ------------------------------------------------------------------------------

    def upload(self, files: Mapping[Path, str]) -> None:
        """Put files at once.

        Args:
            files: Path here to path there.
        """
        with self._writing():
            self.fs.put([str(path) for path in files], [self._full(path) for path in files.values()])

    def put(self, path: str, data: bytes, new: bool = False) -> None:
        """Put a small file.

        Args:
            path: The file.
            data: Its content.
            new: Whether it fails, with `FileExistsError`, if there is one.
        """
        with self._writing():
            self.fs.pipe_file(self._full(path), data, mode="create" if new else "overwrite")

    def remove(self, path: str) -> None:
        """Remove a file, if it is there.

        Args:
            path: The file.
        """
        with self._writing(), contextlib.suppress(FileNotFoundError):
            self.fs.rm_file(self._full(path))

    def remove_folder(self, path: str) -> None:
        """Remove a folder, if it is there.

        Args:
            path: The folder.
        """
        with self._writing(), contextlib.suppress(FileNotFoundError):
            fs = self.fs
            fs.invalidate_cache()
            fs.rm(self._full(path), recursive=True)

    def forget(self, run_id: str) -> None:
        """Remove what was fetched of a run.

        Args:
            run_id: The run's id.
        """
        shutil.rmtree(self.cache / run_id, ignore_errors=True)

    def now(self) -> float:
        """Return the time by the clock of the server, in seconds, by writing a file and removing it."""
        name = f"{PROBE}{uuid.uuid4().hex}"
        with self._writing():
            fs, path = self.fs, self._full(name)
            with tempfile.NamedTemporaryFile() as empty:
                fs.put_file(empty.name, path)  # makes the folder where the protocol has folders
            try:
                fs.invalidate_cache()
                return self._when(name, fs.info(path))
            finally:
                fs.rm_file(path)

    def _when(self, path: str, info: Mapping[str, Any]) -> float:
        given = next((info[key] for key in TIMES if info.get(key) is not None), None)
        if given is None:
            given = self.fs.modified(self._full(path))
        if isinstance(given, str):
            given = datetime.fromisoformat(given)
        return given.timestamp() if isinstance(given, datetime) else float(given or time.time())
