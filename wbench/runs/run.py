"""A recorded run: one directory of open formats."""

from __future__ import annotations

import contextlib
import html
import json
import os
import uuid
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wbench.errors import RunError, closest
from wbench.runs.files import check_name, read_frame, read_tensors, sync, write_frame
from wbench.runs.spec import run_id

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

FORMAT = 1
STATUSES = ("finished", "diverged", "stopped", "failed")
DERIVED = "derived"
FIELDS = {
    "format": int, "id": str, "spec": dict, "info": dict, "status": str, "reason": str, "summary": dict, "files": dict,
    "created": float,
}  # fmt: skip


class Run:
    """A run as it lies on disk. Cheap to open; tables and tensors are read when asked for.

    Args:
        path: The run's directory.

    Attributes:
        id: Hash of what determines the run; also the directory's name.
        path: The directory.
        spec: What determines the run: task, methods with every field, recipe, seed, code.
        info: What is known besides: versions, device, data checksums, timings.
        status: `finished`, `diverged`, `stopped` or `failed`.
        reason: Why, where it did not finish.
        summary: Final metrics, `split.name` to value.

    Raises:
        RunError: If the directory is not a whole run; says what is wrong.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        record = _read_record(self.path)
        self.id: str = record["id"]
        self.spec: dict[str, Any] = record["spec"]
        self.info: dict[str, Any] = record["info"]
        self.status: str = record["status"]
        self.reason: str = record["reason"]
        self.summary: dict[str, float | None] = record["summary"]
        self.created: float = record["created"]
        self._files: dict[str, int] = record["files"]
        self._checksums: dict[str, str] = record.get("sha256", {})

    @property
    def seed(self) -> int:
        """The seed; 0 where the spec names none."""
        seed = self.spec.get("seed", 0)
        return seed if isinstance(seed, int) else 0

    @property
    def task(self) -> str:
        """The task's id."""
        return _id_of(self.spec.get("task"))

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods' ids."""
        entries = self.spec.get("methods")
        return tuple(map(_id_of, entries)) if isinstance(entries, list) else ()

    @property
    def label(self) -> str:
        """Task and methods in short, e.g. `digits + galore`."""
        return " + ".join([self.task, *self.methods])

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """Every logged number: columns step, phase, split, name, value."""
        return read_frame(self.path / "metrics.parquet", self._checksums.get("metrics.parquet"))

    @property
    def probes(self) -> list[str]:
        """Names of the recorded tables."""
        later = [path.stem for path in sorted((self.path / DERIVED).glob("[!.]*.parquet"))]
        return list(dict.fromkeys([*self._own(".parquet"), *later]))

    def _own(self, suffix: str) -> list[str]:
        return [
            name.removesuffix(suffix) for name in self._files if name.endswith(suffix) and name != "metrics.parquet"
        ]

    def probe(self, name: str) -> pd.DataFrame:
        """Return a recorded table.

        Args:
            name: E.g. `spectrum`; see `probes`.

        Returns:
            A tidy table; most have a `step` column.

        Raises:
            RunError: If the run has no such table; lists those it has.
        """
        if name in self._own(".parquet"):
            return read_frame(self.path / f"{name}.parquet", self._checksums.get(f"{name}.parquet"))
        if name in self.probes:
            return read_frame(self.path / DERIVED / f"{name}.parquet")
        raise RunError(f"run {self.id} has no table '{name}'.{closest(name, self.probes)}")

    def tensors(self, name: str = "weights") -> dict[str, Tensor]:
        """Return recorded tensors.

        Args:
            name: `weights` (after `finish`) or `trained` (before it).

        Returns:
            Name to tensor, on the CPU.

        Raises:
            RunError: If the run kept none of that name, or the file is damaged.
        """
        file, kept = f"{name}.safetensors", self._own(".safetensors")
        if name not in kept:
            raise RunError(
                f"run {self.id} ({self.status}) kept no tensors '{name}'; it has: {', '.join(kept) or 'none'}"
            )
        return read_tensors(self.path / file, self._checksums.get(file))

    def final(self, name: str, split: str = "test") -> float:
        """Return the last value of a metric.

        Args:
            name: E.g. `accuracy`.
            split: E.g. `test`.

        Returns:
            The value; NaN where it was not finite.

        Raises:
            RunError: If it was not recorded; lists what was.
        """
        key = f"{split}.{name}"
        if key not in self.summary:
            raise RunError(f"run {self.id} has no metric '{key}'.{closest(key, self.summary)}")
        value = self.summary[key]
        return float("nan") if value is None else value

    def attach(self, name: str, frame: pd.DataFrame) -> None:
        """Keep a table that was computed from the run later, e.g. a landscape; written whole or not at all.

        Args:
            name: Name under which `probe` finds it; not one that the run itself recorded.
            frame: The table; replaces one kept under that name before.

        Raises:
            RunError: If the name is taken or not allowed, or the folder cannot be written.
        """
        if check_name(name, "table") in self._own(".parquet"):
            raise RunError(f"run {self.id} recorded '{name}' itself, which is never replaced; choose another name")
        folder = self.path / DERIVED
        temporary = folder / f".{name}-{uuid.uuid4().hex}"
        try:
            folder.mkdir(exist_ok=True)
            write_frame(temporary, frame, name)
            os.replace(temporary, folder / f"{name}.parquet")
            sync(folder)
        except OSError as error:
            raise RunError(
                f"'{name}' cannot be kept in {folder}: {error.strerror or error}; free space or choose another store"
            ) from error
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()

    def __repr__(self) -> str:
        shown = ", ".join(f"{k}={v:.4g}" for k, v in self.summary.items() if v is not None and k.startswith("test."))
        return f"<Run {self.id} {self.label} seed={self.seed} {self.status}{': ' + shown if shown else ''}>"

    def _repr_html_(self) -> str:
        rows = {
            "run": self.id,
            "what": self.label,
            "seed": self.seed,
            "status": self.status,
            "reason": self.reason,
            **self.summary,
        }
        cells = "".join(
            f"<tr><th>{html.escape(str(k))}</th><td>{html.escape(str(v))}</td></tr>" for k, v in rows.items()
        )
        return f"<table>{cells}</table>"


def _read_record(path: Path) -> dict[str, Any]:
    file = path / "run.json"
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{path} is no run: run.json is missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{file} is damaged: {error}") from error
    if not isinstance(record, dict) or not FIELDS.keys() <= record.keys():
        lacking = FIELDS.keys() - set(record) if isinstance(record, dict) else FIELDS
        raise RunError(f"{file} is damaged: it lacks {', '.join(sorted(lacking))}")
    wrong = [name for name, kind in FIELDS.items() if not isinstance(record[name], kind)]
    if wrong:
        raise RunError(f"{file} is damaged: {', '.join(wrong)} cannot be read")
    if record["format"] != FORMAT:
        raise RunError(f"{file} is of format {record['format']}; this version reads {FORMAT}")
    if record["status"] not in STATUSES:
        raise RunError(f"{file} was changed: status={record['status']!r} is none of {', '.join(STATUSES)}")
    if run_id(record["spec"]) != record["id"]:
        raise RunError(f"{file} was changed: its id does not match what it says determines it")
    for name, size in record["files"].items():
        try:
            actual = (path / name).stat().st_size
        except OSError:
            raise RunError(f"{path} is damaged: {name} is missing") from None
        if actual != size:
            raise RunError(f"{path} is damaged: {name} has {actual} bytes instead of {size}")
    return record


def _id_of(entry: Any) -> str:
    if isinstance(entry, dict):
        return str(entry.get("id", "?"))
    return "?" if entry is None else str(entry)
