"""Processes that share a folder of runs: whether one still lives, and one at a time."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder's lock, which ends with the process; does nothing where the system cannot lock a folder.

    Args:
        folder: The folder.
    """
    with contextlib.ExitStack() as held:
        with contextlib.suppress(ImportError, OSError):
            import fcntl

            handle = os.open(folder, os.O_RDONLY)
            held.callback(os.close, handle)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def machine() -> str:
    """Return 8 hex digits that tell this machine from others, by its name."""
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def dead(pid: int, mark: str, path: Path, older_than: float) -> bool:
    """Return whether nobody writes a folder any more.

    Args:
        pid: The process that made it.
        mark: 16 hex digits that begin with its machine; other lengths are of this machine.
        path: The folder.
        older_than: Seconds after which another machine's process is taken for dead.

    Returns:
        Whether it can be removed.
    """
    if len(mark) == 16 and not mark.startswith(machine()):
        with contextlib.suppress(OSError):
            return time.time() - path.stat().st_mtime > older_than
        return False
    return not _alive(pid)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
