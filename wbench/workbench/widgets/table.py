"""A table of some thousand rows, sorted, filtered and edited in the browser."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import anywidget
import traitlets

from wbench.workbench.widgets._source import script, style

Row = dict[str, Any]


class RunTable(anywidget.AnyWidget):
    """Rows with a colour, a name and a note; the browser draws only those in view.

    A row is a dict: `key`, `name`, `note`, `colour` (its number, from 0, in the palette), `dash` (as in plotly), `pinned`, `n`, and a
    value for each column's key. A column is a dict: `key`, `title`, `kind` (`text`, `number` or `time`, seconds since 1970), and where
    wanted `unit` and `digits`. Edits come back through callbacks; the table has made them already.

        table = RunTable(columns=[{"key": "loss", "title": "valid loss", "kind": "number", "digits": 4}])
        table.set_rows([{"key": "a", "name": "rank 4", "colour": 0, "n": 3, "loss": 0.31}])
        table.update_rows([{"key": "a", "loss": 0.29}])
    """

    _esm = script("table.js")
    _css = style("table.css")

    name = traitlets.Unicode("Runs", help="Accessible name.").tag(sync=True)
    columns: traitlets.List[Row] = traitlets.List(help="After name, note and n.").tag(sync=True)
    rows: traitlets.List[Row] = traitlets.List(help="All rows; changed by `set_rows` and `update_rows`.").tag(sync=True)
    selected = traitlets.List(traitlets.Unicode(), help="Keys of the rows that are ticked.").tag(sync=True)
    undoable = traitlets.List(traitlets.Unicode(), help="Keys of the rows deleted last.").tag(sync=True)
    height = traitlets.Int(360, help="At most so many pixels; more rows scroll.").tag(sync=True)

    def __init__(self, columns: Sequence[Mapping[str, Any]] = (), **options: Any) -> None:
        self._edited: list[Callable[[str, str, Any], None]] = []
        self._deleted: list[Callable[[list[str]], None]] = []
        self._undone: list[Callable[[], None]] = []
        self._aside: list[tuple[int, Row]] = []
        super().__init__(columns=[dict(column) for column in columns], **options)
        self.on_msg(self._receive)

    def set_rows(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Show other rows.

        Args:
            rows: Each with `key`; NaN and infinities are shown as missing.
        """
        self.rows = [_plain(row) for row in rows]
        keys = {row["key"] for row in self.rows}
        self.selected = [key for key in self.selected if key in keys]

    def update_rows(self, changed: Iterable[Mapping[str, Any]]) -> None:
        """Change some rows and send only those.

        Args:
            changed: Each with `key` and the fields that are new; an unknown key is a new row, at the end.
        """
        parts = [_plain(row) for row in changed]
        places = {row["key"]: row for row in self.rows}
        for part in parts:
            if part["key"] in places:
                places[part["key"]].update(part)
            else:
                # into the list itself: an assignment would send every row again
                places[part["key"]] = dict(part)
                self.rows.append(places[part["key"]])
        if parts:
            self.send({"kind": "rows", "rows": parts})

    def on_edit(self, callback: Callable[[str, str, Any], None]) -> None:
        """Call a function when the user renames, notes or pins a row.

        Args:
            callback: Takes the row's key, the field (`name`, `note` or `pinned`) and its new value.
        """
        self._edited.append(callback)

    def on_delete(self, callback: Callable[[list[str]], None]) -> None:
        """Call a function when the user deletes rows; they are gone from the table and in `undoable`.

        Args:
            callback: Takes the keys.
        """
        self._deleted.append(callback)

    def on_undo(self, callback: Callable[[], None]) -> None:
        """Call a function when the user takes the last deletion back; the rows are in the table again.

        Args:
            callback: Takes nothing.
        """
        self._undone.append(callback)

    def delete(self, keys: Sequence[str]) -> None:
        """Delete rows as the user does.

        Args:
            keys: Of the rows; those deleted before cannot be brought back any more.
        """
        gone = set(keys)
        self._aside = [(place, row) for place, row in enumerate(self.rows) if row["key"] in gone]
        if not self._aside:
            return
        with self.hold_sync():
            self.rows = [row for row in self.rows if row["key"] not in gone]
            self.selected = [key for key in self.selected if key not in gone]
            self.undoable = [row["key"] for _, row in self._aside]
        for call in self._deleted:
            call(list(self.undoable))

    def undo(self) -> None:
        """Bring back the rows deleted last, each to its place."""
        if not self._aside:
            return
        rows = list(self.rows)
        for place, row in self._aside:
            rows.insert(place, row)
        self._aside = []
        with self.hold_sync():
            self.rows, self.undoable = rows, []
        for call in self._undone:
            call()

    def _receive(self, _widget: object, message: dict[str, Any], _buffers: object) -> None:
        if message.get("kind") == "edit":
            row = next((row for row in self.rows if row["key"] == message["key"]), None)
            if row is None:
                return  # deleted meanwhile
            row[message["field"]] = message["value"]
            for call in self._edited:
                call(message["key"], message["field"], message["value"])
        elif message.get("kind") == "delete":
            self.delete(message["keys"])
        elif message.get("kind") == "undo":
            self.undo()


def _plain(row: Mapping[str, Any]) -> Row:
    # JSON has no NaN, and a page that is sent one shows nothing more
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else _number(value)
        for key, value in row.items()
    }


def _number(value: Any) -> Any:
    item = getattr(value, "item", None)
    return value if item is None else _plain({"": item()})[""]
