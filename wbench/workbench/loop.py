"""Doing things on the kernel's own thread, one after another, a few times a second."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from typing import Any


class Loop:
    """A queue of things to do, worked off by the event loop of the thread that made it.

    A callback of a widget may run on any thread, beside a running cell: it calls `act`, which returns at once. Where no event
    loop runs, as in a script, things are done by whoever calls `act` or `spin`.

    Args:
        tick: Called after what was queued; returns the seconds until it wants to be called again, or `None` for not at all.
        failed: Told of an exception that something queued raised.
    """

    def __init__(self, tick: Callable[[], float | None], failed: Callable[[Exception], None]) -> None:
        self._tick, self._failed = tick, failed
        self._queue: deque[Callable[[], None]] = deque()
        self._lock = threading.RLock()
        self._timer: Any = None
        self._closed = False
        try:
            self._loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            self._loop = None

    def act(self, todo: Callable[[], None]) -> None:
        """Do something soon; the newest of the same thing last.

        Args:
            todo: What.
        """
        self._queue.append(todo)
        self.wake()

    def wake(self) -> None:
        """Tick soon; any thread may call it."""
        if self._closed:
            return
        if self._loop is None:
            self.spin()
        elif not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._run)

    def spin(self) -> float | None:
        """Do all that is queued and tick once, here and now.

        Returns:
            Seconds until the next tick is wanted, or `None`.
        """
        if not self._lock.acquire(blocking=False):
            return 0.0  # a callback of what is being done: it is queued, and done next
        try:
            while True:
                while self._queue:
                    todo = self._queue.popleft()
                    try:
                        todo()
                    except Exception as error:  # told in the panel, which stays usable
                        self._failed(error)
                try:
                    again = self._tick()
                except Exception as error:  # as above
                    self._failed(error)
                    again = None
                if not self._queue:
                    return again
        finally:
            self._lock.release()

    def _run(self) -> None:
        if self._closed or self._loop is None:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        again = self.spin()
        if again is not None and not self._closed:
            self._timer = self._loop.call_later(again, self._run)

    def close(self) -> None:
        """Do nothing any more."""
        self._closed = True
        self._queue.clear()
        if self._timer is not None:
            self._timer.cancel()
