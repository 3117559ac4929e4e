"""The list of runs: one row a configuration, with the number asked for, ticked to lie over one another."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets as ipw

from wbench.errors import WBenchError
from wbench.workbench.shelf import Shelf
from wbench.workbench.trees import close_tree
from wbench.workbench.widgets import RunTable

MOST = 12  # configurations over one another

REDUCERS = {
    "last": "last value", "best": "best value of the run", "cursor": "value at the cursor",
}  # fmt: skip
QUERIES = {
    "best": "SELECT run, {best}(value) AS value FROM metrics WHERE split = '{split}' AND name = '{name}' GROUP BY run",
    "cursor": "SELECT run, arg_max(value, step) AS value FROM metrics WHERE split = '{split}' AND name = '{name}' "
    "AND step <= {cursor} AND phase <> 'end' GROUP BY run",
}


class Listing:
    """The list of runs of a workbench.

    Args:
        shelf: The runs.
        act: Sees that something is done on the kernel's own thread.
        selected: Called when other rows are ticked.

    Attributes:
        box: What is shown.
    """

    def __init__(self, shelf: Shelf, act: Callable[[Callable[[], None]], None], selected: Callable[[], None]) -> None:
        self._shelf, self._told = shelf, selected
        self._rows: list[dict[str, Any]] = []
        self._cursor: int | None = None
        self._quiet = self._chosen = False  # the number is the usual one until another is chosen
        narrow = {"width": "240px"}
        self.metric = ipw.Dropdown(
            options=["test.accuracy"], description="number", layout=narrow, style={"description_width": "55px"}
        )
        self.reducer = ipw.Dropdown(
            options=[(title, name) for name, title in REDUCERS.items()], description="which", layout=narrow, style={"description_width": "45px"}
        )  # fmt: skip
        self.metric.observe(lambda _: self._choose(), "value")
        for control in (self.metric, self.reducer):
            control.observe(lambda _: None if self._quiet else act(lambda: self.refresh(self._cursor)), "value")
        self.purge = ipw.Button(description="Remove deleted for good", layout={"width": "auto", "display": "none"})
        self.purge.on_click(lambda _: act(self._purge))
        self.restore = ipw.Button(description="Bring back deleted", layout={"width": "auto", "display": "none"})
        self.restore.on_click(lambda _: act(lambda: self._bring_back(self._hidden())))
        self.note = ipw.HTML()
        self.table = RunTable(columns=_columns("test.accuracy", "last value"))
        self.table.observe(lambda _: None if self._quiet else act(self._ticked), "selected")
        self.table.on_edit(lambda key, field, value: act(lambda: self._edit(key, field, value)))
        self.table.on_delete(lambda keys: act(lambda: self._delete(keys)))
        self.table.on_undo(lambda: act(self._undo))
        head = ipw.HBox([ipw.HTML("<h3 class='wbench-heading'>Runs</h3>"), self.metric, self.reducer, self.restore, self.purge],
                        layout={"align_items": "center", "flex_flow": "row wrap"})  # fmt: skip
        self.box = ipw.VBox([head, self.note, self.table], layout={"width": "100%"})

    @property
    def selected(self) -> list[str]:
        """Configurations that are ticked, at most twelve."""
        return [key for key in self.table.selected if key in self._shelf.groups][:MOST]

    @property
    def at_cursor(self) -> bool:
        """Whether the numbers are those at the cursor."""
        return bool(self.reducer.value == "cursor")

    @property
    def pinned(self) -> list[str]:
        """Configurations that are pinned."""
        return [key for key in self._shelf.groups if self._shelf.marks[key].pinned]

    def select(self, keys: Sequence[str]) -> None:
        """Tick rows.

        Args:
            keys: Configurations; all others are unticked.
        """
        self.table.selected = list(keys)

    def deselect(self, keys: Sequence[str]) -> None:
        """Untick rows.

        Args:
            keys: Configurations.
        """
        self._quiet = True
        self.table.selected = [key for key in self.table.selected if key not in set(keys)]
        self._quiet = False

    def refresh(self, cursor: int | None) -> None:
        """Show the runs as they are now.

        Args:
            cursor: Step of the panels' cursor; `None`: the last.
        """
        self._cursor = cursor
        self._quiet = True
        try:
            known = self._shelf.metrics() or ["test.accuracy"]
            if list(self.metric.options) != known:
                kept = self.metric.value if self._chosen and self.metric.value in known else known[0]
                self.metric.options = known
                self.metric.value = kept
            self._offer_deleted()
            title = REDUCERS[self.reducer.value]
            self.note.value = ""
            values = None
            if self.reducer.value != "last":
                values = self._asked()
                if self.reducer.value == "cursor" and cursor is not None:
                    title = f"at step {cursor:,}"
            columns = _columns(self.metric.value, title)
            if self.table.columns != columns:
                self.table.columns = columns
            rows = self._shelf.rows(self.metric.value, values, self.table.selected)
            old = {row["key"]: row for row in self._rows}
            if self._rows and [row["key"] for row in rows if row["key"] in old] == list(old) and len(rows) == len(old):
                self.table.update_rows([row for row in rows if row != old[row["key"]]])
            else:
                self.table.set_rows(rows)
            self._rows = rows
        finally:
            self._quiet = False

    def _choose(self) -> None:
        self._chosen = self._chosen or not self._quiet

    def _asked(self) -> dict[str, float] | None:
        from wbench.runs.query import runs

        split, _, name = self.metric.value.partition(".")
        best = "min" if "loss" in name or "error" in name else "max"
        cursor = self._cursor if self._cursor is not None else 2**62
        query = QUERIES[self.reducer.value].format(
            split=_quoted(split), name=_quoted(name), best=best, cursor=int(cursor)
        )
        try:
            found = runs(query, self._shelf.store)
        except WBenchError as error:
            self.note.value = f"<span class='wbench-error' role='alert'>{html.escape(str(error))}</span>"
            return None
        return dict(zip(found["run"], found["value"].astype(float), strict=True))

    def _ticked(self) -> None:
        for key in self.selected:
            self._shelf.marks.colour(key)
        self.refresh(self._cursor)
        if len(self.table.selected) > MOST:
            self._say(f"{MOST} configurations are drawn at most; the first ticked are.")
        self._told()

    def _say(self, text: str) -> None:
        self.note.value = f"<span class='wbench-said' role='status'>{html.escape(text)}</span>"

    def _edit(self, key: str, field: str, value: Any) -> None:
        self._shelf.marks.set(key, **{field: value})
        for row in self._rows:
            if row["key"] == key:
                row[field] = value
        if field == "name" and not value:
            self.refresh(self._cursor)
        self._told()

    def _delete(self, keys: Sequence[str]) -> None:
        self._shelf.delete(keys)
        self._rows = [row for row in self._rows if row["key"] not in set(keys)]
        self._offer_deleted()
        self._told()

    def _undo(self) -> None:
        listed = {row["key"] for row in self.table.rows}
        self._bring_back([key for key in self._hidden() if key in listed])

    def _bring_back(self, keys: Sequence[str]) -> None:
        self._shelf.undo(keys)
        self._rows = []
        self.refresh(self._cursor)
        self._told()

    def _offer_deleted(self) -> None:
        self.purge.layout.display = self.restore.layout.display = None if self._hidden() else "none"

    def _hidden(self) -> list[str]:
        return self._shelf.marks.deleted()

    def _purge(self) -> None:
        count = self._shelf.purge()
        self._rows = []
        self.refresh(self._cursor)
        self._say(f"{count} run(s) were removed from the disk.")
        self._told()

    def close(self) -> None:
        """Free every widget."""
        close_tree(self.box)


def _columns(metric: str, title: str) -> list[dict[str, Any]]:
    return [
        {"key": "value", "title": f"{metric.replace('.', ' ')}, {title}", "kind": "number", "digits": 4},
        {"key": "spread", "title": "sd over seeds", "kind": "number", "digits": 2},
        {"key": "task", "title": "task", "kind": "text"},
        {"key": "status", "title": "status", "kind": "text"},
        {"key": "seconds", "title": "time", "kind": "number", "unit": "s", "digits": 3},
        {"key": "created", "title": "when", "kind": "time"},
    ]


def _quoted(text: str) -> str:
    return text.replace("'", "''")
