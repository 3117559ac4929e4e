"""One place of a pool: the call that is worked on, and the process that works on it."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import time
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from typing import Any

from wbench.study.process import TimeLimitError, WorkerDiedError, read_answer, serve

PATIENCE = 5.0  # seconds in which a worker that has nothing more to do should end by itself
WARM = "wbench.study.warm"
LOOK = 1.0  # seconds between looks at workers whose death no pipe tells, as a child of theirs keeps it open


@dataclass(eq=False)
class Call:
    """A call that waits or runs.

    Attributes:
        future: Receives what comes of it.
        payload: Pickled function and arguments.
        seconds: How long it may take, or `None`.
        place: The worker that has to take it, or `None` for any.
    """

    future: Future[Any]
    payload: bytes
    seconds: float | None
    place: int | None

    def cancel(self) -> None:
        """Cancel it before it runs, and tell those who wait for it."""
        self.future.cancel()
        self.future.set_running_or_notify_cancel()


def context() -> Any:
    """Return how worker processes are started here."""
    # On Linux workers are forked off a server that has imported everything once and does nothing else: they start in a
    # moment and share its memory. It has no threads and has not touched a GPU, as this process may have.
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload([WARM])
    return server


class Slot:
    """A place for a worker: its process, when there is one, and the call that it has or will have."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.process: BaseProcess | None = None
        self.pipe: connection.Connection
        self.call: Call | None = None
        self.ready = self.sent = False
        self.deadline: float | None = None

    def start(self, environment: dict[str, str], threads: int, memory: float | None) -> None:
        """Start a worker.

        Args:
            environment: Added to this process's.
            threads: For numerical libraries.
            memory: GiB that it may take, or `None`.
        """
        environment = {**os.environ, **environment}
        kind = context()
        self.pipe, theirs = kind.Pipe()
        process = kind.Process(target=serve, args=(theirs, environment, threads, memory), name="wbench-worker")
        try:
            process.start()
        except OSError as error:
            self.pipe.close()
            self._settle(WorkerDiedError(f"no process could be started: {error}"))
        else:
            self.process = process
        theirs.close()

    def send(self) -> bool:
        """Give the worker its call.

        Returns:
            Whether it was still wanted.
        """
        call = self.call
        if call is None or not call.future.set_running_or_notify_cancel():
            self.call = None
            return False
        self.sent = True
        with suppress(OSError):  # its worker has died: `listen` will tell
            self.pipe.send_bytes(call.payload)
        return True

    def listen(self) -> None:
        """Take in what the worker has to say, or that it is dead, or that its time is over."""
        if self.process is None:
            return
        try:
            while self.process is not None and self.pipe.poll():
                self._hear(*pickle.loads(self.pipe.recv_bytes()))
            dead = self.process is not None and self.process.exitcode is not None and not self.pipe.poll()
        except (EOFError, OSError):
            dead = True
        if dead:
            self.end()
        elif self.deadline is not None and time.monotonic() >= self.deadline and self.call is not None:
            limit = self.call.seconds
            self.hang_up(now=True)
            self.end(TimeLimitError(f"the call took longer than its limit of {limit:g} s and was stopped"))

    def _hear(self, kind: str, *said: Any) -> None:
        if kind == "ready":
            self.ready = True
        elif kind == "started" and self.call is not None and self.call.seconds is not None:
            self.deadline = time.monotonic() + self.call.seconds
        elif kind == "answer":
            reply, last = said
            error, value = read_answer(reply)
            if last:
                self.hang_up(now=True)
                self.end(error)
            else:
                self._settle(error, value)

    def _settle(self, error: BaseException | None, value: Any = None) -> None:
        call, sent = self.call, self.sent
        self.call, self.sent, self.deadline = None, False, None
        if call is None or (not sent and not call.future.set_running_or_notify_cancel()):
            return
        if error is None:
            call.future.set_result(value)
        else:
            call.future.set_exception(error)

    def hang_up(self, now: bool) -> None:
        """Let the worker end, when it has nothing to do or `now`."""
        if self.process is not None:
            self.pipe.close()
            if now:
                self.process.kill()

    def end(self, error: BaseException | None = None) -> None:
        """See the worker off; its call gets the error, default what the worker died of."""
        process, ready = self.process, self.ready
        if process is not None:
            self.pipe.close()
            process.join(PATIENCE)
            if process.exitcode is None:
                process.kill()
                process.join(PATIENCE)
            error = error or obituary(process, ready)
        self.process, self.ready = None, False
        self._settle(error)


def obituary(
    process: BaseProcess, ready: bool, remedy: str = "take fewer workers, or a limit with memory="
) -> WorkerDiedError:
    """Return what a worker died of.

    Args:
        process: It has ended.
        ready: Whether it had come so far as to take calls.
        remedy: What to do where memory may have run out.
    """
    code = process.exitcode
    cause = f"ended with exit code {code}"
    if code is not None and code < 0:
        cause = f"was killed by {signal.Signals(-code).name if -code in set(signal.Signals) else f'signal {-code}'}"
    advice = ""
    if code is not None and -code == getattr(signal, "SIGKILL", 9):
        advice = f"; the system may have run out of memory: {remedy}"
    elif not ready:
        advice = (
            " while it started; what it printed says why. A script needs `if __name__ == '__main__':` around its work"
        )
    return WorkerDiedError(f"the worker process {process.pid} {cause}{advice}")
