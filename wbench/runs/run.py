"""A recorded run: one directory of open formats."""

from __future__ import annotations

import contextlib
import html
import os
import uuid
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wbench.errors import RunError, closest
from wbench.runs.files import check_name, read_frame, read_tensors, sync, write_frame
from wbench.runs.record import read_record

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

DERIVED = "derived"


class Run:
    """A run as it lies on disk. Cheap to open; tables and tensors are read when asked for.

    Args:
        path: The run's directory.

    Attributes:
        id: Hash of what determines the run; also the directory's name.
        path: The directory; of a run at a URL, the local folder into which its files are fetched when asked for.
        spec: What determines the run: task, methods with every field, recipe, seed, code.
        info: What is known besides: versions, device, data checksums, timings.
        status: `finished`, `diverged`, `stopped` or `failed`.
        reason: Why, where it did not finish.
        summary: Final metrics, `split.name` to value.

    Raises:
        RunError: If the directory is not a whole run; says what is wrong.
    """

    def __init__(self, path: Path) -> None:
        self._open(Path(path), read_record(path))

    def _open(self, path: Path, record: Mapping[str, Any]) -> None:
        self.path = path
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
        return read_frame(self._file("metrics.parquet"), self._checksums.get("metrics.parquet"))

    @property
    def memory(self) -> dict[str, int]:
        """Bytes that training took, measured at its end.

        `parameters`, `buffers`, `gradients`, `optimizer` (its state), `activations` (what autograd keeps between forward and
        backward pass of one batch), `weights` (what is left after `finish`, as saved), `packed_...` (forms that a method defines
        but holds wider here) and on CUDA `peak`.
        """
        return {
            k.removeprefix("memory."): int(v)
            for k, v in self.summary.items()
            if k.startswith("memory.") and v is not None
        }

    @property
    def probes(self) -> list[str]:
        """Names of the recorded tables."""
        return list(dict.fromkeys([*self._own(".parquet"), *self._later()]))

    # where the files lie: what a run kept at a URL does differently

    def _file(self, name: str) -> Path:
        return self.path / name

    def _later(self) -> list[str]:
        return [path.stem for path in sorted((self.path / DERIVED).glob("[!.]*.parquet"))]

    def _later_file(self, name: str) -> Path:
        return self.path / DERIVED / f"{name}.parquet"

    def _keep_later(self, name: str, frame: pd.DataFrame) -> None:
        folder = self.path / DERIVED
        temporary = folder / f".{name}-{uuid.uuid4().hex}"
        try:
            folder.mkdir(exist_ok=True)
            write_frame(temporary, frame, name)
            os.replace(temporary, folder / f"{name}.parquet")
            sync(folder)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()

    @property
    def _place(self) -> str:
        return str(self.path)

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
            return read_frame(self._file(f"{name}.parquet"), self._checksums.get(f"{name}.parquet"))
        if name in self.probes:
            return read_frame(self._later_file(name))
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
        return read_tensors(self._file(file), self._checksums.get(file))

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
        try:
            self._keep_later(name, frame)
        except OSError as error:
            raise RunError(
                f"'{name}' cannot be kept in {self._place}: {error.strerror or error}; free space or choose another store"
            ) from error

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


def _id_of(entry: Any) -> str:
    if isinstance(entry, dict):
        return str(entry.get("id", "?"))
    return "?" if entry is None else str(entry)
