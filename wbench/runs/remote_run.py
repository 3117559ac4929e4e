"""A run at a URL: opened from its record, its files fetched when asked for."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wbench.errors import RunError
from wbench.runs.files import REMEDY, same, write_frame
from wbench.runs.remote_files import Files
from wbench.runs.run import DERIVED, Run

if TYPE_CHECKING:
    import pandas as pd


class RemoteRun(Run):
    """A run at a URL. `path` is the local folder that holds what was fetched of it.

    Args:
        files: The store's files.
        record: The run's record.

    Attributes:
        attempt: Name of the folder there that holds the run's files.
    """

    def __init__(self, files: Files, record: Mapping[str, Any]) -> None:
        self._remote = files
        self.attempt: str = record["attempt"]
        self._open(files.cache / record["id"] / self.attempt, record)

    @property
    def remote(self) -> str:
        """Where its files lie, below the store's URL."""
        return f"{self.id}/{self.attempt}"

    @property
    def _place(self) -> str:
        return f"{self._remote.shown}/{self.id}"

    def is_here(self, name: str) -> bool:
        """Return whether a file was fetched before and is what was written.

        Args:
            name: The file.
        """
        path = self.path / name
        try:
            return os.stat(path).st_size == self._files[name] and same(path, self._checksums.get(name))
        except OSError:
            return False

    def _file(self, name: str) -> Path:
        path = self.path / name
        if not self.is_here(name):
            self._remote.fetch([(f"{self.remote}/{name}", path)])
            if path.stat().st_size != self._files[name]:
                raise RunError(f"{self._place}/{name} is damaged: its size is not what was written; {REMEDY}")
        return path

    def _later(self) -> list[str]:
        names = [Path(path).name for path in self._remote.sizes(f"{self.remote}/{DERIVED}")]
        return sorted(name.removesuffix(".parquet") for name in names if name.endswith(".parquet"))

    def _later_file(self, name: str) -> Path:
        path = self.path / DERIVED / f"{name}.parquet"
        self._remote.fetch([(f"{self.remote}/{DERIVED}/{path.name}", path)])  # every time: it may have been replaced
        return path

    def _keep_later(self, name: str, frame: pd.DataFrame) -> None:
        with tempfile.TemporaryDirectory(prefix="wbench-") as folder:
            file = Path(folder) / f"{name}.parquet"
            write_frame(file, frame, name)
            self._remote.upload({file: f"{self.remote}/{DERIVED}/{file.name}"})
