"""What runs on the workers of a Dask cluster: one call at a time, with a time limit in a process of its own."""

from __future__ import annotations

import math
import multiprocessing
import os
import pickle
import threading
from typing import Any, NoReturn

from wbench.errors import WBenchError
from wbench.study.pool import Processes
from wbench.study.process import WorkerDiedError, answer

NO_LIMIT = (
    "the workers may not start processes, so that a call over its time limit could not be ended; start them with "
    "DASK_DISTRIBUTED__WORKER__DAEMON=False in their environment or with --no-nanny, or leave the time limit out"
)
_one = threading.Lock()
_child: Processes | None = None


def versions() -> dict[str, str]:
    """Return the versions that decide whether results are the same, without the local part that says CPU or CUDA."""
    from importlib.metadata import version

    import wbench

    return {"wbench": wbench.__version__, "torch": version("torch").partition("+")[0]}


def mismatch(ours: dict[str, str], theirs: dict[str, str]) -> str:
    """Return where versions differ, in words; empty where they do not.

    Args:
        ours: From `versions`, where the study runs.
        theirs: From `versions`, on a worker.
    """
    return ", ".join(f"has {name} {theirs[name]}, here is {ours[name]}" for name in ours if ours[name] != theirs[name])


def describe(dask_worker: Any) -> dict[str, Any]:
    """Return what decides whether and how calls are given to this worker.

    Args:
        dask_worker: Put in by Dask.
    """
    return {
        "versions": versions(),
        "threads": dask_worker.state.nthreads,
        "gpus": dask_worker.state.total_resources.get("GPU", 0),
        "daemon": multiprocessing.current_process().daemon,
    }


def _load(payload: bytes) -> None:
    pickle.loads(payload)


def _raise(error: BaseException) -> NoReturn:
    raise error


def _raising(error: BaseException) -> bytes:
    return answer(pickle.dumps((_raise, (error,), {})))[0]


def work(payload: bytes, seconds: float | None, wanted: dict[str, str]) -> bytes:
    """Run a call in a worker: here, or with a time limit in a process that is kept for the next.

    Args:
        payload: Pickled function, arguments and named arguments.
        seconds: How long it may take, or `None`.
        wanted: From `versions`, where the study runs.

    Returns:
        What came of it, for `read_answer`.

    Raises:
        WorkerDiedError: If the process with a time limit died; Dask tries again.
    """
    problem = mismatch(wanted, versions())  # this worker may have come late
    if problem:
        return _raising(WBenchError(f"a worker {problem}; install the same version"))
    with _one:
        if seconds is None:
            return answer(payload)[0]
        if multiprocessing.current_process().daemon:
            return _raising(WBenchError(NO_LIMIT))
        global _child
        if _child is None:
            _child = Processes(1, threads=int(os.environ.get("WBENCH_THREADS", "1")), memory=math.inf)
        _child.submit(_load, payload).exception()  # imports what the call needs, whose time is not the call's
        future = _child.submit_limited(seconds, answer, payload)
        error = future.exception()
        if isinstance(error, WorkerDiedError):
            raise error
        return _raising(error) if error is not None else future.result()[0]
