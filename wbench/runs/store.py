"""A folder of runs."""

from __future__ import annotations

import os
import shutil
import uuid
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wbench.errors import RunError, closest
from wbench.runs.run import Run
from wbench.runs.writer import RunWriter

if TYPE_CHECKING:
    import pandas as pd


class RunStore:
    """A folder of run directories; each is whole or absent.

    Args:
        root: The folder; default `$WBENCH_HOME/runs`, else `./.wbench/runs`. Made when first written.
    """

    def __init__(self, root: str | Path | None = None) -> None:
        home = os.environ.get("WBENCH_HOME") or ".wbench"
        self.root = Path(root) if root is not None else Path(home) / "runs"

    def path(self, run_id: str) -> Path:
        """Return where a run lies or would lie.

        Args:
            run_id: The run's id.
        """
        return self.root / run_id

    def find(self, run_id: str) -> Run | None:
        """Return a run if it is there and whole.

        Args:
            run_id: The run's id.
        """
        try:
            return _open(self.path(run_id))
        except RunError:
            return None

    def get(self, prefix: str) -> Run:
        """Return the run whose id starts with a prefix.

        Args:
            prefix: Enough of the id to be unique.

        Returns:
            The run.

        Raises:
            RunError: If there is none (names the closest), several, or it is damaged.
        """
        ids = [path.name for path in self._folders()]
        found = [name for name in ids if name.startswith(prefix)] if prefix else []
        if prefix in found:
            found = [prefix]
        if len(found) > 1:
            raise RunError(f"'{prefix}' is the start of {len(found)} runs: {', '.join(found[:5])}; give more of the id")
        if not found:
            raise RunError(f"no run '{prefix}' in {self.root}.{closest(prefix, ids)}")
        return _open(self.path(found[0]))

    def runs(self) -> list[Run]:
        """Return every whole run, newest first; damaged ones are named in one warning and left out."""
        found, damaged = self._scan()
        if damaged:
            named = "; ".join(reason for _, reason in damaged[:5])
            warnings.warn(f"{len(damaged)} damaged run(s) are left out: {named}", stacklevel=2)
        return sorted(found, key=lambda run: (-run.created, run.id))

    def damaged(self) -> list[tuple[Path, str]]:
        """Return directories that are no whole run, each with what is wrong."""
        return self._scan()[1]

    def _folders(self) -> list[Path]:
        if not self.root.is_dir():
            return []
        return sorted(path for path in self.root.iterdir() if path.is_dir() and not path.name.startswith("."))

    def _scan(self) -> tuple[list[Run], list[tuple[Path, str]]]:
        found: list[Run] = []
        damaged: list[tuple[Path, str]] = []
        for path in self._folders():
            try:
                found.append(_open(path))
            except RunError as error:
                if path.exists():  # else another process deleted it meanwhile
                    damaged.append((path, str(error)))
        return found, damaged

    def delete(self, prefix: str) -> str:
        """Delete a run, whole or damaged: it is gone at once, then its files are removed.

        Args:
            prefix: Enough of the id to be unique.

        Returns:
            The id of what was deleted.

        Raises:
            RunError: If there is none, several, or the folder cannot be written.
        """
        folder = self.path(prefix)
        if not prefix or prefix.startswith(".") or Path(prefix).name != prefix or not folder.is_dir():
            folder = self.get(prefix).path
        aside = self.root / f".old-{folder.name}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        try:
            os.rename(folder, aside)
        except OSError as error:
            raise RunError(
                f"run {folder.name} cannot be deleted from {self.root}: {error.strerror or error}"
            ) from error
        shutil.rmtree(aside, ignore_errors=True)
        return folder.name

    def writer(self, spec: Mapping[str, Any], info: Mapping[str, Any] | None = None) -> RunWriter:
        """Begin a run.

        Args:
            spec: What determines it; its hash is the run's name.
            info: What is known besides.

        Returns:
            A writer.

        Raises:
            RunError: If the folder cannot be written, before any time is spent on training.
        """
        return RunWriter(self, spec, info)

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

    def sweep(self) -> list[str]:
        """Remove what processes that no longer live on this machine have left half-written or half-deleted.

        Returns:
            Names of the removed folders.
        """
        removed = []
        for path in self.root.glob(".*") if self.root.is_dir() else []:
            parts = path.name.rsplit("-", 2)
            ours = path.name.startswith((".tmp-", ".old-")) and len(parts) == 3 and parts[1].isdigit()
            if ours and path.is_dir() and not _alive(int(parts[1])):
                shutil.rmtree(path, ignore_errors=True)
                removed.append(path.name)
        return removed

    def frame(self) -> pd.DataFrame:
        """Return one row a whole run, newest first.

        Returns:
            Columns id, created, task, methods, seed, status, reason, seconds, and final metrics as `metric.<split>.<name>`.
        """
        import pandas as pd

        known = ["id", "created", "task", "methods", "seed", "status", "reason", "seconds"]
        rows = []
        for run in self.runs():
            timings = run.info.get("timings")
            row = {
                "id": run.id,
                "created": pd.Timestamp(run.created, unit="s"),
                "task": run.task,
                "methods": " + ".join(run.methods) or "baseline",
                "seed": run.seed,
                "status": run.status,
                "reason": run.reason,
                "seconds": timings.get("seconds") if isinstance(timings, dict) else None,
            }
            rows.append(row | {f"metric.{name}": value for name, value in run.summary.items()})
        return pd.DataFrame(rows, columns=list(dict.fromkeys([*known, *(key for row in rows for key in row)])))

    def compare(self, ids: Iterable[str]) -> pd.DataFrame:
        """Return the settings in which runs differ, and their final metrics.

        Args:
            ids: Ids or unique prefixes.

        Returns:
            One row a setting, one column a run.

        Raises:
            RunError: If one of them does not exist.
        """
        import pandas as pd

        runs = [self.get(name) for name in ids]
        flat = {run.id: _flatten(run.spec) | {f"metric.{k}": v for k, v in run.summary.items()} for run in runs}
        keys = dict.fromkeys(key for values in flat.values() for key in values)
        table = {key: [values.get(key) for values in flat.values()] for key in keys}
        differ = {key: row for key, row in table.items() if len({repr(value) for value in row}) > 1}
        return pd.DataFrame.from_dict(differ, orient="index", columns=list(flat), dtype=object)


def _open(path: Path) -> Run:
    run = Run(path)
    if run.id != path.name:
        raise RunError(f"{path} holds run {run.id}; rename the folder to that, or delete it")
    return run


def _flatten(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping):
        parts = [(f"{path}.{key}" if path else str(key), part) for key, part in value.items()]
    elif isinstance(value, list) and value and all(isinstance(part, Mapping) for part in value):
        names = [str(part.get("id", part.get("name", index))) for index, part in enumerate(value)]
        again = [names[:index].count(name) for index, name in enumerate(names)]
        keys = [f"{name}[{count}]" if count else name for name, count in zip(names, again, strict=True)]
        parts = [(f"{path}.{key}", part) for key, part in zip(keys, value, strict=True)]
    else:
        return {path: value}
    return {key: found for name, part in parts for key, found in _flatten(part, name).items()}


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
