"""Moves of a run's folder: to its place, which another process may fill at the same moment, and back."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
import uuid
from pathlib import Path

from wbench.errors import RunError
from wbench.runs.files import sync
from wbench.runs.processes import locked, machine
from wbench.runs.record import KEPT, OtherFormat
from wbench.runs.run import Run

OCCUPIED = {errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR}
ASIDE = (".tmp-", ".old-", ".gone-")  # being written; moved out of the way of a new one; being deleted


def beside(target: Path, kind: str) -> Path:
    """Return a hidden folder's name, new and beside a run's, that says who has made it.

    Args:
        target: The run's folder.
        kind: Of `ASIDE`.
    """
    return target.parent / f"{kind}{target.name}-{os.getpid()}-{machine()}{uuid.uuid4().hex[:8]}"


def put(temporary: Path, target: Path) -> None:
    """Move a run to its place, unless one lies there that is not to be replaced.

    Args:
        temporary: The run as it was written aside.
        target: Its place.

    Raises:
        OSError: If the folder cannot be written.
    """
    for _ in range(8):
        try:
            os.rename(temporary, target)  # fails where a run lies already
            break
        except OSError as error:
            if error.errno not in OCCUPIED:
                raise
        with locked(target.parent):  # so that what is moved away is what was looked at
            if _kept(target):
                return
            if _replace(temporary, target):
                break
    else:
        raise OSError(errno.EBUSY, "other processes keep writing the same run")
    sync(target.parent)


def _replace(temporary: Path, target: Path) -> bool:
    aside = beside(target, ".old-")
    with contextlib.suppress(FileNotFoundError):
        os.rename(target, aside)
    if _kept(aside):  # where nothing can be locked, another process may have put it there since we looked
        put_back(aside, target)
        return False
    try:
        os.rename(temporary, target)
    except OSError as error:
        put_back(aside, target)
        if error.errno not in OCCUPIED:
            raise
        return False
    shutil.rmtree(aside, ignore_errors=True)
    return True


def put_back(aside: Path, target: Path) -> None:
    """Undo a move aside, unless another process has filled the place with a run that is not to be replaced.

    Args:
        aside: Where the run lies.
        target: Its place.
    """
    for _ in range(8):
        try:
            os.rename(aside, target)
            return
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in OCCUPIED:
                return  # it stays aside, from where `LocalPlace.sweep` puts it back
        if not _kept(aside) or _kept(target):
            shutil.rmtree(aside, ignore_errors=True)
            return
        lesser = beside(target, ".old-")
        with contextlib.suppress(FileNotFoundError):
            os.rename(target, lesser)
        if _kept(lesser):
            put_back(lesser, target)
        shutil.rmtree(lesser, ignore_errors=True)


def arrived(target: Path) -> Run:
    """Return the run at a place; for a moment there is none, while another process replaces it.

    Args:
        target: The place.
    """
    for _ in range(20):
        with contextlib.suppress(RunError):
            return Run(target)
        time.sleep(0.005)
    return Run(target)


def _kept(folder: Path) -> bool:
    # whether a whole run lies there that is not to be replaced
    try:
        return Run(folder).status in KEPT
    except OtherFormat:
        return True
    except RunError:
        return False
