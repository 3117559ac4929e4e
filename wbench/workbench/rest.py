"""What is done once the user has come to rest."""

from __future__ import annotations

import time
from collections.abc import Callable

REST = 0.3  # seconds after which a slider has come to rest


class Rest:
    """Something to do when nothing has asked for it for a moment.

    Args:
        do: What.
    """

    def __init__(self, do: Callable[[], None]) -> None:
        self._do = do
        self._since: float | None = None

    @property
    def waiting(self) -> bool:
        """Whether it is still to be done."""
        return self._since is not None

    def begin(self) -> None:
        """Ask for it, from now on."""
        self._since = time.monotonic()

    def cancel(self) -> None:
        """Do not do it."""
        self._since = None

    def tick(self) -> None:
        """Do it if it is due."""
        if self._since is not None and time.monotonic() >= self._since + REST:
            self._since = None
            self._do()
