"""Settings against results, for all runs of the task on the controls; what is brushed there is ticked, and so drawn in every panel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from wbench.runs.store import flatten
from wbench.task import Task
from wbench.workbench.controls.knob import AUTO
from wbench.workbench.listing import MOST, Listing
from wbench.workbench.names import task_short
from wbench.workbench.panels import Drawn
from wbench.workbench.panels.look import quietly
from wbench.workbench.shelf import Shelf
from wbench.workbench.widgets.view import Selection


class Parallel:
    """Parallel coordinates over settings and the listed number.

    Args:
        shelf: The runs.
        listing: Says which number, and takes the ticks.
        task: Returns the task on the controls.
    """

    def __init__(self, shelf: Shelf, listing: Listing, task: Callable[[], Task]) -> None:
        self._shelf, self._listing, self._task = shelf, listing, task
        self._drawn: Any = None
        self._keys: list[str] = []  # the configuration of each line
        self._before: list[str] | None = None  # what was ticked before anything was brushed
        self._inside: list[str] = []

    def draw(self) -> Drawn:
        """Return the picture, or why there is none."""
        import numpy as np

        from wbench import plots

        metric, name = self._listing.metric.value, task_short(self._task().fingerprint())
        frame, keys = self._table(metric, name)
        if len(frame) < 3:
            return Drawn(None, f"Three runs of {name} or more are needed; there are {len(frame)}.")
        # of a method's own settings those that differ among its runs: the others say no more than `methods`
        frame = frame[[name for name in frame.columns if name == metric or frame[name].dropna().map(str).nunique() > 1]]
        order = ["methods", *(name for name in frame.columns if name not in {"methods", "seed", metric})]
        frame = frame[[name for name in [*order, "seed", metric] if name in frame.columns]]
        finite = np.isfinite(frame[metric].astype(float).to_numpy())
        self._keys = [key for key, there in zip(keys, finite, strict=True) if there]
        self._drawn = quietly(plots.parallel, frame, result=metric)
        return Drawn(self._drawn, f"{len(frame)} runs of {name}; {self._said()}", frame)

    def picked(self, panel: str, ranges: Selection) -> None:
        """Tick the configurations within what is brushed; those ticked before come back when nothing is any more.

        Args:
            panel: Where something was selected; only what is brushed here matters.
            ranges: Label of an axis to its ranges.
        """
        from wbench.plots.parallel import brushed

        if panel != "settings" or not isinstance(ranges, dict) or self._drawn is None or not self._drawn.data:
            return
        ticked = list(self._listing.table.selected)
        if ranges:
            self._before = ticked if self._before is None else self._before
            lines = zip(self._keys, brushed(self._drawn, ranges), strict=True)
            self._inside = list(dict.fromkeys(key for key, inside in lines if inside))
            self._listing.select(self._inside)
        elif self._before is not None:
            before, self._before = self._before, None
            by_hand = ticked != self._inside  # it stays
            self._listing.select(ticked if by_hand else before)

    def _said(self) -> str:
        if self._before is None:
            return "drag along an axis to pick some: they are ticked, and drawn over one another in every panel."
        count = len(self._inside)
        what = "1 configuration lies" if count == 1 else f"{count} configurations lie"
        verb = "is" if count == 1 else "are"
        more = f", of which {MOST} are drawn" if count > MOST else ""
        return f"{what} within and {verb} ticked{more}; click beside the range to take it off."

    def _table(self, metric: str, task: str) -> tuple[Any, list[str]]:
        import pandas as pd

        rows, keys = [], []
        for key, entries in self._shelf.groups.items():
            for entry in entries:
                value = entry.summary.get(metric)
                if value is None or task_short(entry.task) != task:
                    continue
                fields = {f"{m['id']}.{name}": v for m in entry.methods for name, v in m["fields"].items()}
                told = {**flatten(entry.recipe), **fields}
                settings = {name: _stop(value) for name, value in told.items()}
                methods = " + ".join(str(m["id"]) for m in entry.methods) or "baseline"
                rows.append({"methods": methods, **settings, "seed": entry.seed, metric: value})
                keys.append(key)
        return pd.DataFrame(rows), keys


def _stop(value: Any) -> Any:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return AUTO if value is None else value
