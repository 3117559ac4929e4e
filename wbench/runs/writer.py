"""Writing a run aside, then putting it in place in one step."""

from __future__ import annotations

import errno
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from wbench.errors import RunError, closest
from wbench.runs.files import (
    Snapshot,
    check_name,
    checksums,
    snapshot,
    sync,
    write_frame,
    write_json,
    write_rows,
    write_tensors,
)
from wbench.runs.record import FORMAT, KEPT, STATUSES
from wbench.runs.run import Run
from wbench.runs.spec import canonical, run_id

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from wbench.runs.store import RunStore

COLUMNS = ["step", "phase", "split", "name", "value"]
NAMES = frozenset(COLUMNS)
REMEDY = {errno.ENOSPC: "free space", errno.EROFS: "choose a writable folder", errno.EACCES: "choose a writable folder"}


class RunWriter:
    """Collects a run in memory and writes it when committed. As a context manager, an exception discards it.

    Args:
        store: Where the run goes.
        spec: What determines it.
        info: What is known besides.
    """

    def __init__(self, store: RunStore, spec: Mapping[str, Any], info: Mapping[str, Any] | None = None) -> None:
        self.store, self.info = store, dict(info or {})
        self.id, self.spec = (
            run_id(spec),
            json.loads(canonical(spec)),
        )  # a copy: what the caller changes later does not count
        self._rows: list[dict[str, Any]] = []
        self._tables: dict[str, list[pd.DataFrame]] = {}
        self._tensors: dict[str, Snapshot] = {}
        store.check_writable()

    def log(self, rows: list[dict[str, Any]]) -> None:
        """Append metric rows.

        Args:
            rows: With step, phase, split, name, value.

        Raises:
            RunError: If a row lacks one of them or has more, or its value is no number.
        """
        for row in rows:
            if row.keys() != NAMES:
                raise RunError(f"a metric row has {', '.join(COLUMNS)}; got {', '.join(map(str, row))}")
            try:
                self._rows.append({**row, "value": float(row["value"])})
            except (TypeError, ValueError) as error:
                raise RunError(
                    f"metric '{row['split']}.{row['name']}' must be a number, got {row['value']!r}"
                ) from error

    def table(self, name: str, frame: pd.DataFrame) -> None:
        """Append rows to a table.

        Args:
            name: The table's name.
            frame: Rows; the same columns each time.

        Raises:
            RunError: If the name cannot be the name of a file.
        """
        self._tables.setdefault(check_name(name, "table"), []).append(frame.copy())

    def tensors(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep tensors as they are now; training may go on.

        Args:
            name: `weights`, `trained`, ...
            tensors: Name to tensor.

        Raises:
            RunError: If the name cannot be the name of a file.
        """
        self._tensors[check_name(name, "tensors")] = snapshot(tensors)

    def rows(self, split: str, name: str) -> list[dict[str, Any]]:
        """Return the rows logged so far of one metric.

        Args:
            split: What it was measured on.
            name: The metric.
        """
        return [row for row in self._rows if row["split"] == split and row["name"] == name]

    @property
    def metrics(self) -> pd.DataFrame:
        """What was logged so far."""
        import pandas as pd

        return pd.DataFrame(self._rows, columns=COLUMNS)

    def probe(self, name: str) -> pd.DataFrame:
        """Return a table as far as it has come.

        Args:
            name: The table's name.

        Returns:
            A tidy table.

        Raises:
            RunError: If nothing was recorded under that name.
        """
        import pandas as pd

        if name not in self._tables:
            raise RunError(f"nothing is recorded as '{name}' yet.{closest(name, self._tables)}")
        return pd.concat(self._tables[name], ignore_index=True)

    def commit(
        self,
        status: str = "finished",
        reason: str = "",
        info: Mapping[str, Any] | None = None,
        to: RunStore | None = None,
    ) -> Run:
        """Write everything aside, flush it, and put it in place.

        Args:
            status: `finished`, `diverged`, `stopped` or `failed`.
            reason: Why, where it did not finish.
            info: Added to what is known.
            to: Another store, e.g. after the first was full.

        Returns:
            The run; if another process has finished the same one meanwhile, that one.

        Raises:
            RunError: If the store cannot be written, the status is none of these, or a table cannot be kept as Parquet. Nothing
                half-written is left, and the writer still holds everything.
        """
        if status not in STATUSES:
            raise RunError(f"status={status!r} is not allowed; allowed: {', '.join(STATUSES)}")
        place = (to or self.store).place
        self.info.update(info or {})
        try:
            return place.commit(self.id, lambda folder: self._write(folder, status, reason), status in KEPT)
        except OSError as error:
            what = REMEDY.get(error.errno or 0, "choose another folder")
            failure = RunError(
                f"run {self.id} cannot be written to {place}: {error.strerror or error}; {what} and commit again, "
                "or commit(to=RunStore(other folder)); nothing is lost: this error's `writer` holds the run"
            )
            failure.writer = self
            raise failure from error

    def _write(self, folder: Path, status: str, reason: str) -> None:
        write_rows(folder / "metrics.parquet", self._rows, COLUMNS)
        for name in self._tables:
            write_frame(folder / f"{name}.parquet", self.probe(name), name)
        for name, kept in self._tensors.items():
            write_tensors(folder / f"{name}.safetensors", kept)
        record = {
            "format": FORMAT,
            "id": self.id,
            "created": float(time.time()),
            "status": status,
            "reason": reason,
            "summary": {f"{row['split']}.{row['name']}": row["value"] for row in self._rows},
            "spec": self.spec,
            "info": self.info,
            "files": {path.name: path.stat().st_size for path in sorted(folder.iterdir())},
            "sha256": checksums(folder),
        }
        write_json(folder / "run.json", record)
        sync(folder)

    def abort(self) -> None:
        """Forget what was collected; nothing is written before `commit`."""
        self._rows.clear()
        self._tables.clear()
        self._tensors.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.abort()
