"""All runs of a store in a light form, from an index: thousands are listed without opening each.

The index is only a copy: an entry counts while the run's record has the size and the time of change that stand in it. So a run
that was deleted or replaced is never seen in it, and a damaged index is made again.
"""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wbench.errors import RunError
from wbench.runs.local import LocalPlace
from wbench.runs.run import Run
from wbench.runs.spec import config_id
from wbench.runs.store import RunStore

FORMAT = 1
FILE = "catalogue.json"


@dataclass(frozen=True)
class Entry:
    """What a list shows of a run.

    Attributes:
        id: The run's id.
        config: The same for runs that differ in their seed alone.
        created: Seconds since 1970.
        task: The task's record: id and options.
        methods: Records of the methods: id and fields.
        recipe: The recipe's fields.
        seed: The seed.
        status: `finished`, `diverged`, `stopped` or `failed`.
        reason: Why, where it did not finish.
        seconds: Time spent, or `None`.
        summary: Final metrics, `split.name` to value.
    """

    id: str
    config: str
    created: float
    task: dict[str, Any]
    methods: list[dict[str, Any]]
    recipe: dict[str, Any]
    seed: int
    status: str
    reason: str
    seconds: float | None
    summary: dict[str, float | None]


def entry_of(run: Run) -> Entry:
    """Return the light form of a run.

    Args:
        run: The run.
    """
    spec = run.spec
    methods = [
        {"id": m.get("id", "?"), "fields": m.get("fields", {})}
        for m in spec.get("methods") or []
        if isinstance(m, dict)
    ]
    timings = run.info.get("timings")
    seconds = timings.get("seconds") if isinstance(timings, dict) else None
    task, recipe = spec.get("task"), spec.get("recipe")
    return Entry(
        run.id, config_id(spec), run.created, task if isinstance(task, dict) else {"id": run.task}, methods,
        recipe if isinstance(recipe, dict) else {}, run.seed, run.status, run.reason, seconds, dict(run.summary),
    )  # fmt: skip


class Catalogue:
    """The runs of a store, kept up to date by looking at what has changed since the last time.

    Args:
        store: The store; at a URL its records are read each time.
    """

    def __init__(self, store: RunStore) -> None:
        self.store = store
        self._known: dict[str, tuple[int, int, Entry]] = {}
        self._damaged: dict[str, tuple[int, int]] = {}
        self._loaded = False

    def entries(self) -> list[Entry]:
        """Return every whole run, newest first; damaged ones are left out."""
        place = self.store.place
        if not isinstance(place, LocalPlace):
            return sorted(map(entry_of, place.scan()[0]), key=lambda entry: (-entry.created, entry.id))
        if not self._loaded:
            self._known, self._loaded = _read(place.cache / FILE), True
        stamps = _stamps(place.root)
        stamps = {name: stamp for name, stamp in stamps.items() if self._damaged.get(name) != stamp}
        known = {
            name: self._known[name] for name, stamp in stamps.items() if self._known.get(name, (0, 0))[:2] == stamp
        }
        same = len(known) == len(self._known)
        for name in stamps.keys() - known.keys():
            try:
                known[name] = (*stamps[name], entry_of(place.open(name)))
                same = False
            except RunError:  # damaged, or just deleted
                self._damaged[name] = stamps[name]
        if not same:
            _write(place.cache, known)
        self._known = known
        return sorted((entry for _, _, entry in known.values()), key=lambda entry: (-entry.created, entry.id))

    def leave_out(self, run_id: str) -> None:
        """Leave a run out until its record changes: it has turned out to be damaged, which its record does not tell.

        Args:
            run_id: The run's id.
        """
        if run_id in self._known:
            self._damaged[run_id] = self._known[run_id][:2]


def _stamps(root: Path) -> dict[str, tuple[int, int]]:
    found = {}
    try:
        with os.scandir(root) as entries:
            for item in entries:
                if item.name[0] != ".":
                    with contextlib.suppress(OSError):
                        stat = os.stat(f"{root}{os.sep}{item.name}{os.sep}run.json")
                        found[item.name] = stat.st_mtime_ns, stat.st_size
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return found


def _read(file: Path) -> dict[str, tuple[int, int, Entry]]:
    try:
        held = json.loads(file.read_bytes())
        if held["format"] != FORMAT:
            return {}
        return {name: (changed, size, Entry(**fields)) for name, (changed, size, fields) in held["runs"].items()}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _write(folder: Path, known: dict[str, tuple[int, int, Entry]]) -> None:
    temporary = folder / f".{uuid.uuid4().hex}"
    runs = {name: (changed, size, asdict(entry)) for name, (changed, size, entry) in known.items()}
    with contextlib.suppress(OSError):  # a store that can only be read is listed without an index
        try:
            folder.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps({"format": FORMAT, "runs": runs}), encoding="utf-8")
            os.replace(temporary, folder / FILE)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()
