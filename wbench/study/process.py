"""What a worker process does: it answers calls that come through its pipe, and ends with its parent."""

from __future__ import annotations

import ctypes
import errno
import importlib
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import connection
from typing import Any

from wbench.errors import WBenchError
from wbench.machine import keep_freed_memory


class TimeLimitError(WBenchError):
    """A call took longer than its limit."""


class WorkerDiedError(WBenchError):
    """The process that worked on a call ended before the call did."""


class OutOfMemoryError(WBenchError):
    """A call wanted more memory than its worker may take, or than the device has."""


def serve(pipe: connection.Connection, environment: dict[str, str], threads: int, memory: float | None) -> None:
    """Answer calls until the parent hangs up.

    Args:
        pipe: To the parent.
        environment: As in `settle_in`.
        threads: As in `settle_in`.
        memory: As in `settle_in`.
    """
    settle_in(environment, threads, memory)

    def started() -> None:
        pipe.send_bytes(pickle.dumps(("started",)))

    last = False
    with suppress(EOFError, OSError):  # the parent has hung up
        pipe.send_bytes(pickle.dumps(("ready",)))
        while not last:
            reply, last = answer(pipe.recv_bytes(), memory, started)
            pipe.send_bytes(pickle.dumps(("answer", reply, last)))


def settle_in(environment: dict[str, str], threads: int | None, memory: float | None) -> None:
    """Make this process a worker: deaf to Ctrl-C, with its parent's environment, ending with its parent.

    Args:
        environment: The parent's, with what is to be added; the server that this process may be forked from has an older one.
        threads: For numerical libraries, or `None` to leave them as they are.
        memory: GiB that this process may take, or `None`.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    _follow_parent()
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    os.environ.update(environment)
    if threads is not None:
        if not {"numpy", "torch"}.isdisjoint(sys.modules):  # the parent's script, which spawn has run, may import them
            importlib.import_module("threadpoolctl").threadpool_limits(threads)
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(threads)
    keep_freed_memory()
    if memory is not None:
        import resource

        limit, (_, hard) = int(memory * 2**30), resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def answer(
    payload: bytes, memory: float | None = None, started: Callable[[], None] | None = None
) -> tuple[bytes, bool]:
    """Run a call that came pickled.

    Args:
        payload: Pickled function, arguments and named arguments.
        memory: GiB that this process may take, for the message.
        started: Is told when the call is there, before it runs.

    Returns:
        What came of it, for `read_answer`; and whether memory ran out, so that this process had better not go on.
    """
    try:
        fn, args, kwargs = pickle.loads(payload)
        if started is not None:
            started()
        return pickle.dumps((pickle.dumps(fn(*args, **kwargs), pickle.HIGHEST_PROTOCOL), None)), False
    except BaseException as raised:
        full = out_of_memory(raised)
        if full:
            traceback.clear_frames(raised.__traceback__)  # makes room for what follows
        summary = "".join(traceback.format_exception_only(raised)).strip()
        text = "".join(traceback.format_exception(raised))
        error: BaseException = raised
        if full:
            limit = f"the limit is {memory:.3g} GiB for this worker" if memory is not None else "no limit is set"
            error = OutOfMemoryError(f"out of memory, {limit}: {summary}")
        body = b""
        with suppress(Exception):  # cannot be pickled: goes as text
            if isinstance(error, Exception):  # SystemExit and its kind would end who receives it: as text
                body = pickle.dumps(error)
        return pickle.dumps((body, (summary, text))), full


def read_answer(reply: bytes) -> tuple[Exception | None, Any]:
    """Return the error, if there is one, and the value that came of a call.

    Args:
        reply: From `answer`.
    """
    body, failure = pickle.loads(reply)
    if failure is None:
        try:
            return None, pickle.loads(body)
        except Exception as broken:  # a user's own objects raise what they like
            return broken, None
    summary, text = failure
    error: Exception = RuntimeError(summary)
    with suppress(Exception):  # it was not pickled, or cannot be unpickled
        error = pickle.loads(body)
    error.add_note(f"in a worker process:\n{text}")
    return error, None


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out, whoever has raised it.

    Args:
        error: Any.
    """
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    if any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__):
        return True
    words = ("can't allocate memory", "DefaultCPUAllocator", "not enough memory", "out of memory")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


def _follow_parent() -> None:
    """End with the parent, even if it is killed and whatever this process is doing."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=wait, name="wbench-parent", daemon=True).start()
    if sys.platform == "linux":  # the kernel also reaches a process whose threads are held up by foreign code
        _let_server_go()
        server = os.getppid()  # ends with the parent, if this process was forked off a server
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != server or not parent.is_alive():
            os._exit(1)


def _let_server_go() -> None:
    # a process that was forked off the server keeps it alive by a pipe, so that it would outlive the parent
    server = getattr(sys.modules.get("multiprocessing.forkserver"), "_forkserver", None)
    pipe = getattr(server, "_forkserver_alive_fd", None)
    if isinstance(pipe, int):
        server._forkserver_alive_fd = None  # type: ignore[union-attr]
        os.close(pipe)


def load(module: str) -> None:
    """Import a module.

    Args:
        module: Its name.
    """
    importlib.import_module(module)
