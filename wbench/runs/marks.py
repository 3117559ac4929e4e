"""What people attach to runs: names, notes, pins, colours, and what they have thrown away but may want back.

One small file a mark, written whole, beside the runs: two windows on one store do not overwrite each other's marks.
"""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from wbench.errors import RunError
from wbench.runs.store import RunStore

FOLDER = "marks"


@dataclass(frozen=True)
class Mark:
    """What is attached to a run, or to the runs of one configuration.

    Attributes:
        name: Shown in place of the settings; empty: none.
        note: Free text.
        pinned: Whether it stands first.
        colour: Number of its colour, for life; `None` until it was first drawn.
        deleted: Whether it is out of sight, until the deletion is undone or made final.
    """

    name: str = ""
    note: str = ""
    pinned: bool = False
    colour: int | None = None
    deleted: bool = False


class Marks:
    """The marks of a store.

    Args:
        store: The store; marks of a store at a URL lie in its local cache.
    """

    def __init__(self, store: RunStore) -> None:
        self._folder = Path(store.place.cache) / FOLDER
        self._held: dict[str, Mark] = {}
        self._read_new()

    def __getitem__(self, key: str) -> Mark:
        return self._held.get(key, Mark())

    def set(self, key: str, **changes: Any) -> Mark:
        """Change a mark.

        Args:
            key: A run's id, or a configuration's.
            **changes: Fields of `Mark`.

        Returns:
            The mark.

        Raises:
            RunError: If the folder cannot be written; the mark is kept as long as this object lives.
        """
        self._read(key)  # another window may have changed it
        mark = replace(self[key], **changes)
        self._held[key] = mark
        temporary = self._folder / f".{uuid.uuid4().hex}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(asdict(mark)), encoding="utf-8")
            os.replace(temporary, self._folder / f"{key}.json")
        except OSError as error:
            raise RunError(f"the mark of {key} cannot be kept in {self._folder}: {error.strerror or error}") from error
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()
        return mark

    def colour(self, key: str) -> int:
        """Return the number of a configuration's colour, choosing the first that no other has when it has none.

        Args:
            key: The configuration.
        """
        held = self[key].colour
        if held is not None:
            return held
        self._read_new()
        if self[key].colour is not None:
            return self.colour(key)
        taken = {mark.colour for mark in self._held.values()}
        free = next(number for number in range(len(taken) + 1) if number not in taken)
        with contextlib.suppress(RunError):
            self.set(key, colour=free)
        return free

    def _read_new(self) -> None:
        for file in sorted(self._folder.glob("[!.]*.json")):
            if file.stem not in self._held:
                self._read(file.stem)

    def _read(self, key: str) -> None:
        with contextlib.suppress(OSError, ValueError, TypeError):  # a damaged mark is no mark
            mark = Mark(**json.loads((self._folder / f"{key}.json").read_text(encoding="utf-8")))
            if isinstance(mark.colour, int | None) and isinstance(mark.name, str) and isinstance(mark.note, str):
                self._held[key] = mark

    def deleted(self) -> list[str]:
        """Return what is out of sight."""
        return [key for key, mark in self._held.items() if mark.deleted]

    def forget(self, keys: Iterable[str]) -> None:
        """Remove marks.

        Args:
            keys: Whose.
        """
        for key in keys:
            self._held.pop(key, None)
            with contextlib.suppress(OSError):
                (self._folder / f"{key}.json").unlink()
