"""One workbench a cell: where a cell is run again, its panel takes the place of the one before."""

from __future__ import annotations

import weakref
from typing import Any, Protocol


class Closable(Protocol):
    """What can be closed."""

    def close(self) -> None:
        """Free what it holds."""


_by_cell: weakref.WeakValueDictionary[str, Closable] = weakref.WeakValueDictionary()


def take_place(panel: Closable) -> None:
    """Close what the cell that runs now has shown before, and remember what it shows instead.

    Args:
        panel: What it shows.
    """
    from IPython.core.getipython import get_ipython

    shell: Any = get_ipython()
    header = getattr(shell, "parent_header", None) or {} if shell else {}
    cell = str((header.get("metadata") or {}).get("cellId") or "")
    if not cell:
        return
    earlier = _by_cell.pop(cell, None)
    if earlier is not None and earlier is not panel:
        earlier.close()
    _by_cell[cell] = panel
