"""The runs of a store as the workbench lists them: grouped over seeds, named, pinned, coloured, deleted with a way back."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from wbench.errors import RunError
from wbench.recipe import Recipe
from wbench.runs import Run, RunStore
from wbench.runs.catalogue import Catalogue, Entry
from wbench.runs.local import LocalPlace
from wbench.runs.marks import Marks
from wbench.runs.store import flatten
from wbench.tasks import all as all_tasks
from wbench.training.job import Job
from wbench.workbench.names import short, task_short
from wbench.workbench.shown import Shown

METRICS = ("test.accuracy", "test.loss", "valid.accuracy", "valid.loss", "train.loss")
OPEN = 64  # runs that are kept open


class Shelf:
    """The runs of a store.

    Args:
        store: The store.

    Attributes:
        groups: Configuration to its runs in a light form, oldest seed first; the newest configuration first.
    """

    def __init__(self, store: RunStore) -> None:
        self.store, self.marks = store, Marks(store)
        self.groups: dict[str, list[Entry]] = {}
        self._catalogue = Catalogue(store)
        self._open: dict[str, Run] = {}
        self._usual: dict[str, Recipe | None] = {}

    def refresh(self) -> None:
        """Look at what is there now."""
        groups: dict[str, list[Entry]] = {}
        for entry in self._catalogue.entries():
            if not (self.marks[entry.id].deleted or self.marks[entry.config].deleted):
                groups.setdefault(entry.config, []).append(entry)
        self.groups = {key: sorted(entries, key=lambda entry: entry.seed) for key, entries in groups.items()}
        created = {entry.id: entry.created for entries in self.groups.values() for entry in entries}
        self._open = {name: run for name, run in self._open.items() if created.get(name) == run.created}

    def run(self, run_id: str) -> Run | None:
        """Return a run, kept open for the next time; `None` where it has gone.

        Args:
            run_id: Its whole id.
        """
        held = self._open.get(run_id)
        if held is None or self._gone(held):
            self._open.pop(run_id, None)
            found = self.store.find(run_id)
            if found is None:
                self._catalogue.leave_out(run_id)
                return None
            while len(self._open) >= OPEN:
                self._open.pop(next(iter(self._open)))
            self._open[run_id] = found
        return self._open[run_id]

    def runs(self, key: str) -> list[Run]:
        """Return the runs of a configuration that are there.

        Args:
            key: The configuration.
        """
        return [run for entry in self.groups.get(key, ()) if (run := self.run(entry.id)) is not None]

    def _gone(self, run: Run) -> bool:
        return isinstance(self.store.place, LocalPlace) and not run.path.exists()

    def name(self, key: str) -> str:
        """Return how a configuration is called: as named by hand, else by its methods and the settings that are not the usual ones.

        Args:
            key: The configuration.
        """
        entries = self.groups.get(key)
        return self.marks[key].name or (self.settings(entries[0]) if entries else key[:8])

    def settings(self, entry: Entry) -> str:
        """Return methods and settings in short: what differs from the defaults.

        Args:
            entry: A run.
        """
        return short(entry.task, entry.methods, entry.recipe, self._usual_recipe(entry.task))

    def called(self, job: Job) -> str:
        """Return how the configuration of a job is called, whether it has runs or none yet.

        Args:
            job: The job.
        """
        methods = [{"id": method.id, "fields": method.fields()} for method in job.methods]
        named = self.marks[job.config].name
        return named or short(job.task.fingerprint(), methods, job.recipe.fields(), job.task.recipe("cpu"))

    def trained(self, key: str, seeds: Iterable[int]) -> bool:
        """Return whether a configuration has come to its end for all of some seeds.

        Args:
            key: The configuration.
            seeds: The seeds.
        """
        ended = {entry.seed for entry in self.groups.get(key, ()) if entry.status in {"finished", "diverged"}}
        return ended.issuperset(seeds)

    def _usual_recipe(self, task: dict[str, Any]) -> Recipe | None:
        name = str(task.get("id"))
        if name not in self._usual:
            found = all_tasks().get(name)
            self._usual[name] = found().recipe("cpu") if found is not None else None
        return self._usual[name]

    def shown(self, keys: Iterable[str]) -> tuple[list[Shown], list[str]]:
        """Return configurations to draw, and the keys of those whose runs are gone.

        Args:
            keys: Configurations.
        """
        found, gone = [], []
        for key in keys:
            runs = self.runs(key)
            if not runs:
                gone.append(key)
                continue
            entry = self.groups[key][0]
            methods = tuple(str(method["id"]) for method in entry.methods)
            size = entry.recipe.get("batch_size")
            batch = size if isinstance(size, int) else 1
            found.append(Shown(key, self.name(key), self.marks.colour(key), list(runs), batch, methods))
        return found, gone

    def rows(
        self, metric: str, values: dict[str, float] | None = None, selected: Iterable[str] = ()
    ) -> list[dict[str, Any]]:
        """Return a row a configuration, for the table.

        Args:
            metric: `split.name` of the number shown.
            values: Run to number, where it is not the last one.
            selected: Configurations that have a colour although they were never drawn.
        """
        rows, coloured = [], set(selected)
        for key, entries in self.groups.items():
            mark, first = self.marks[key], entries[0]
            numbers = [self._value(entry, metric, values) for entry in entries]
            known = [number for number in numbers if number is not None and math.isfinite(number)]
            mean = sum(known) / len(known) if known else None
            statuses = sorted({entry.status for entry in entries})
            colour = self.marks.colour(key) if key in coloured else mark.colour
            rows.append({
                "key": key, "colour": colour, "pinned": mark.pinned, "name": self.name(key), "note": mark.note,
                "task": task_short(first.task), "n": len(entries), "status": ", ".join(statuses), "value": mean,
                "spread": _deviation(known), "seconds": sum(entry.seconds or 0.0 for entry in entries) / len(entries),
                "created": max(entry.created for entry in entries),
            })  # fmt: skip
        return rows

    @staticmethod
    def _value(entry: Entry, metric: str, values: dict[str, float] | None) -> float | None:
        return values.get(entry.id) if values is not None else entry.summary.get(metric)

    def metrics(self) -> list[str]:
        """Return the metrics that the runs have, the usual ones first."""
        found = {
            name for entries in self.groups.values() for entry in entries for name in entry.summary
            if name.split(".")[0] in {"train", "valid", "test"}
        }  # fmt: skip
        return [*(name for name in METRICS if name in found), *sorted(found - set(METRICS))]

    def ids(self, keys: Iterable[str]) -> list[str]:
        """Return the runs of configurations.

        Args:
            keys: Configurations.
        """
        return [entry.id for key in keys for entry in self.groups.get(key, ())]

    def delete(self, keys: Iterable[str]) -> None:
        """Put configurations out of sight; `undo` brings them back, `purge` removes them.

        Args:
            keys: Configurations.
        """
        for key in keys:
            self.marks.set(key, deleted=True)
        self.refresh()

    def undo(self, keys: Iterable[str]) -> None:
        """Bring back what was deleted.

        Args:
            keys: Configurations.
        """
        for key in keys:
            self.marks.set(key, deleted=False)
        self.refresh()

    def purge(self) -> int:
        """Remove what was deleted from the disk for good.

        Returns:
            Number of runs removed.

        Raises:
            RunError: If one cannot be removed.
        """
        gone = [entry for entry in self._catalogue.entries() if self.marks[entry.config].deleted]
        for entry in gone:
            if self.store.find(entry.id) is not None:
                self.store.delete(entry.id)
        self.marks.forget(self.marks.deleted())
        self.refresh()
        return len(gone)

    def compared(self, keys: Iterable[str]) -> Any:
        """Return the settings in which configurations differ: one row a setting, one column a configuration.

        Args:
            keys: Configurations; of each the first run counts.

        Returns:
            A DataFrame.

        Raises:
            RunError: If a run has gone meanwhile.
        """
        import pandas as pd

        columns, flat = [], []
        for key in keys:
            entries = self.groups.get(key)
            run = self.run(entries[0].id) if entries else None
            if run is None:
                raise RunError(f"the runs of {self.name(key)} are gone from {self.store}")
            columns.append(self.name(key))
            flat.append(_settings(flatten(run.spec), run.methods))
        names = dict.fromkeys(name for values in flat for name in values)
        # of a method that one of them lacks the row `methods` tells
        common = [name for name in names if not name.startswith("methods.") or all(name in values for values in flat)]
        table = {name: [values.get(name) for values in flat] for name in common}
        differ = {name: row for name, row in table.items() if len({repr(value) for value in row}) > 1}
        named = {name.removeprefix("methods.").replace(".fields.", "."): row for name, row in differ.items()}
        return pd.DataFrame.from_dict(named, orient="index", columns=columns, dtype=object)


def _settings(flat: dict[str, Any], methods: tuple[str, ...]) -> dict[str, Any]:
    told = {"seed", "code", "methods"}  # elsewhere, or of no use to a reader
    plain = {
        name: value
        for name, value in flat.items()
        if name not in told and not (name.startswith("methods.") and name.endswith((".code", ".id")))
    }
    return {"methods": " + ".join(methods) or "baseline", **plain}


def _deviation(values: list[float]) -> float | None:
    if len(values) < 2:
        return None
    mean = sum(values) / len(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
