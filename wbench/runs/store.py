"""A store of runs: a local folder, or a URL."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wbench.errors import RunError, closest
from wbench.runs.local import LocalPlace
from wbench.runs.place import DAY, Place, Unreachable
from wbench.runs.record import OtherFormat
from wbench.runs.run import Run
from wbench.runs.writer import RunWriter

if TYPE_CHECKING:
    import pandas as pd


class RunStore:
    """A folder of runs; each is whole or absent.

    Usage:
        RunStore("runs")                  # a local folder
        RunStore("s3://bucket/runs")      # any fsspec URL: s3, gs, az, memory, ...

    Access to a URL (keys, endpoint, region) is read by fsspec and the protocol's package from their own configuration
    and environment, e.g. `AWS_ACCESS_KEY_ID` and `FSSPEC_S3_ENDPOINT_URL`.

    Args:
        root: The folder or URL; default `$WBENCH_HOME/runs`, else `./.wbench/runs`. Made when first written.

    Attributes:
        place: What reads and writes there.

    Raises:
        RunError: If a URL has a protocol that fsspec does not know, or no folder.
        MissingPackageError: If the protocol's package is not installed.
    """

    def __init__(self, root: str | Path | None = None) -> None:
        if root is None:
            root = Path(os.environ.get("WBENCH_HOME") or ".wbench") / "runs"
        self.place = _place(root)

    def __str__(self) -> str:
        return str(self.place)

    def __repr__(self) -> str:
        return f"RunStore({str(self)!r})"

    def __reduce__(self) -> tuple[type[RunStore], tuple[str]]:
        return RunStore, (self.url,)

    @property
    def url(self) -> str:
        """Absolute path or URL, from which another process opens the same store; `str(store)` is what to show."""
        return self.place.url

    @property
    def root(self) -> Path:
        """The local folder.

        Raises:
            RunError: If the store lies at a URL.
        """
        if not isinstance(self.place, LocalPlace):
            raise RunError(f"the store {self} is no local folder; use its `url`, or a run's `path`")
        return self.place.root

    def path(self, run_id: str) -> Path:
        """Return where a run lies or would lie in a local folder.

        Args:
            run_id: The run's id.

        Returns:
            The run's directory.
        """
        return self.root / run_id

    def find(self, run_id: str) -> Run | None:
        """Return a run if it is there and whole.

        Args:
            run_id: The run's id.

        Returns:
            The run, or `None`.

        Raises:
            OtherFormat: If another version of wbench wrote it.
            Unreachable: If a URL does not answer, so that nothing is known.
        """
        try:
            return self.place.open(run_id)
        except (OtherFormat, Unreachable):
            raise
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
        ids = self.place.names()
        found = [name for name in ids if name.startswith(prefix)] if prefix else []
        if prefix in found:
            found = [prefix]
        if len(found) > 1:
            raise RunError(f"'{prefix}' is the start of {len(found)} runs: {', '.join(found[:5])}; give more of the id")
        if not found:
            raise RunError(f"no run '{prefix}' in {self}.{closest(prefix, ids)}")
        return self.place.open(found[0])

    def runs(self) -> list[Run]:
        """Return every whole run, newest first; damaged ones are named in one warning and left out."""
        found, damaged = self.place.scan()
        if damaged:
            named = "; ".join(reason for _, reason in damaged[:5])
            warnings.warn(f"{len(damaged)} damaged run(s) are left out: {named}", stacklevel=2)
        return sorted(found, key=lambda run: (-run.created, run.id))

    def finished(self, ids: Iterable[str]) -> dict[str, Run]:
        """Return those runs that are whole, and finished or diverged: what a study need not train again.

        Args:
            ids: Whole ids.

        Returns:
            Id to run, in the order asked for.

        Raises:
            OtherFormat: If another version of wbench wrote one of them.
            Unreachable: If a URL does not answer, so that nothing is known.
        """
        return self.place.finished(ids)

    def damaged(self) -> list[tuple[Path | str, str]]:
        """Return what is no whole run, each with what is wrong: directories, or addresses at a URL."""
        local = isinstance(self.place, LocalPlace)
        return [(Path(where) if local else where, reason) for where, reason in self.place.scan()[1]]

    def delete(self, prefix: str) -> str:
        """Delete a run, whole or damaged: it is gone at once, then its files are removed.

        Args:
            prefix: Enough of the id to be unique.

        Returns:
            The id of what was deleted.

        Raises:
            RunError: If there is none, several, or the folder cannot be written.
        """
        if prefix and self.place.delete(prefix):
            return prefix
        found = self.get(prefix).id
        self.place.delete(found)
        return found

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
        self.place.check_writable()

    def sweep(self, older_than: float = DAY) -> list[str]:
        """Remove what dead processes have left half-written or half-deleted; never touches a whole run.

        Args:
            older_than: Seconds for which the leftovers of processes that cannot be seen from here are left alone, as they
                may be at work: those of other machines, and all at a URL. Those of dead processes of this machine go at once.

        Returns:
            Names of what was removed.

        Raises:
            RunError: If `older_than` is negative, or a URL cannot be written.
        """
        if not older_than >= 0:
            raise RunError(f"older_than={older_than!r} is not allowed; allowed: seconds, 0 or more")
        return self.place.sweep(older_than)

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
                "created": run.created,
                "task": run.task,
                "methods": " + ".join(run.methods) or "baseline",
                "seed": run.seed,
                "status": run.status,
                "reason": run.reason,
                "seconds": timings.get("seconds") if isinstance(timings, dict) else None,
            }
            rows.append(row | {f"metric.{name}": value for name, value in run.summary.items()})
        frame = pd.DataFrame(rows, columns=list(dict.fromkeys([*known, *(key for row in rows for key in row)])))
        frame["created"] = pd.to_datetime(frame["created"], unit="s", errors="coerce")
        return frame

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
        flat = {run.id: flatten(run.spec) | {f"metric.{k}": v for k, v in run.summary.items()} for run in runs}
        keys = dict.fromkeys(key for values in flat.values() for key in values)
        table = {key: [values.get(key) for values in flat.values()] for key in keys}
        differ = {key: row for key, row in table.items() if len({repr(value) for value in row}) > 1}
        return pd.DataFrame.from_dict(differ, orient="index", columns=list(flat), dtype=object)


def _place(root: str | Path) -> Place:
    text = str(root)
    for local in ("file://", "local://"):
        if text.startswith(local):
            return LocalPlace(Path(text.removeprefix(local)))
    if isinstance(root, Path) or "://" not in text:
        return LocalPlace(Path(root))
    from wbench.runs.remote import RemotePlace

    return RemotePlace(text)


def flatten(value: Any, path: str = "") -> dict[str, Any]:
    """Return nested settings, as read from JSON, as one level: the keys of a place joined by dots, entries of a list by their id.

    Args:
        value: Maps, lists of maps, and leaves.
        path: Where the value stands.

    Returns:
        Place to leaf.
    """
    found: dict[str, Any] = {}
    _flatten_into(found, value, path)
    return found


def _flatten_into(found: dict[str, Any], value: Any, path: str) -> None:
    start = f"{path}." if path else ""
    if isinstance(value, dict):
        for key, part in value.items():
            _flatten_into(found, part, f"{start}{key}")
    elif isinstance(value, list) and value and all(isinstance(part, dict) for part in value):
        names = [str(part.get("id", part.get("name", index))) for index, part in enumerate(value)]
        for index, (name, part) in enumerate(zip(names, value, strict=True)):
            again = names[:index].count(name)
            _flatten_into(found, part, f"{start}{name}[{again}]" if again else f"{start}{name}")
    else:
        found[path] = value
