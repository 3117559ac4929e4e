"""`Trainer`: training in a process of its own, beside whatever this one does."""

from __future__ import annotations

import atexit
import sys
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

from wbench.errors import KnobError, RunError, WBenchError
from wbench.machine import find_gpus, physical_memory
from wbench.runs import RunStore
from wbench.runs.local import LocalPlace
from wbench.study.process import WorkerDiedError
from wbench.workbench.engine.line import Line, at_exit, environment, weakly
from wbench.workbench.engine.messages import Ended, Failed, Message, Ready, Refused, Rows, Started
from wbench.workbench.engine.sources import sources
from wbench.workbench.engine.worker import work

PATIENCE = 2.0  # seconds that a run has for stopping by itself


@dataclass(eq=False)
class _Open:
    payload: bytes  # the pickled arguments of all jobs that were asked for with it
    started: Started | None = None
    begin: float = 0.0


class Trainer:
    """Trains runs in a worker process and collects what it tells. Every method returns at once; any thread may call it.

    Usage:
        with Trainer(RunStore()) as trainer:
            trainer.start([(0, {"task": "digits", "methods": ["galore"]})])
            while trainer.busy:
                trainer.wait(1.0)
                for message in trainer.drain():
                    ...

    A run is bit for bit the one that `wb.train(**arguments)` gives. The worker ends with this process, however that ends, and a
    worker that dies is replaced.

    Args:
        store: Where runs are kept and found.
        threads: Threads for training and numerical libraries; default: as in this process.
    """

    def __init__(self, store: RunStore, *, threads: int | None = None) -> None:
        if threads is not None and threads < 1:
            raise KnobError(f"threads={threads} is not allowed; allowed: a positive number, or None")
        self.store, self.threads = store, threads
        self._news = threading.Condition(threading.RLock())  # guards all that follows
        self._inbox: list[Message] = []
        self._open: dict[int, _Open] = {}  # in the order asked for
        self._stopping: set[int] = set()
        self._stops = 0
        self._lines: list[Line] = []  # the one in use, or none
        self._sources: dict[str, str] = {}
        self._landscape = self._closed = False
        self._end = weakref.finalize(self, _close_all, self._lines)
        self._leave = at_exit(self.close)  # not its lines alone: it would begin another in place of one that ends

    def warm(self) -> None:
        """Start the worker process, so that the next run begins in a moment."""
        with self._news:
            if not self._closed:
                self._line()

    def start(self, jobs: Sequence[tuple[int, Mapping[str, Any]]]) -> None:
        """Train runs: the first by itself, the others together in one vectorised step where they can.

        Each job ends with exactly one of `Ended`, `Refused` and `Failed`. Jobs asked for while others train wait for them.

        Args:
            jobs: Number, of the caller's choice, and arguments of `wb.train` (not store, progress and on_step).

        Raises:
            WBenchError: If the trainer is closed, or a number is that of a job that has not ended.
        """
        import cloudpickle

        wanted = {key: dict(arguments) for key, arguments in jobs}
        with self._news:
            again = [str(key) for key in wanted if key in self._open]
            if self._closed or again:
                raise WBenchError(
                    f"job {', '.join(again)} has not ended yet; take another number"
                    if again
                    else "this trainer is closed; make a new one"
                )
            try:
                payload = cloudpickle.dumps(wanted)
            except Exception as error:  # a user's own objects raise what they like
                text = f"this cannot be sent to the worker process: {error}; build it inside the task or method"
                self._post(*(Refused(key, type(error).__name__, text) for key in wanted))
                return
            self._renew_for(sources(wanted.values()))
            self._open |= {key: _Open(payload) for key in wanted}
            if wanted and (line := self._line()).heard:
                line.send("train", payload, list(wanted))

    def stop(self) -> None:
        """End the run that is training, which is kept as `stopped`, and drop those that wait.

        A run that does not end within two seconds is ended with its process; nothing of it is kept then.
        """
        with self._news:
            line = self._lines[0] if self._lines else None
            if line is None or not line.heard:  # nothing was sent yet
                for key in list(self._open):
                    self._stopped(key)
            elif fresh := self._open.keys() - self._stopping:
                self._stopping |= fresh
                self._stops += 1
                started = [job.started for job in self._open.values() if job.started is not None]
                line.send("stop")
                # what takes no steps never looks for word
                patience = PATIENCE if any(said.steps for said in started) or not started else 0.0
                timer = threading.Timer(patience, _overdue, (weakref.ref(self), line, self._stops))
                timer.daemon = True
                timer.start()

    def landscape(self, on: bool) -> None:
        """Take landscapes of runs, coarse ones while they train and fine ones when they have finished, or no longer.

        Args:
            on: Whether to.
        """
        with self._news:
            self._landscape = on
            for line in self._lines:
                line.send("landscape", on)

    def refine(self, job: int, run_id: str, arguments: Mapping[str, Any]) -> None:
        """Take the landscape of a finished run, finer and finer, between trainings; or send the one that is kept with it.

        Args:
            job: Number under which `Landscape` is told.
            run_id: The run.
            arguments: As it was trained with.

        Raises:
            WBenchError: If the trainer is closed.
        """
        import cloudpickle

        payload = cloudpickle.dumps(dict(arguments))
        with self._news:
            if self._closed:
                raise WBenchError("this trainer is closed; make a new one")
            self._line().send("refine", job, run_id, payload)

    def drain(self) -> list[Message]:
        """Return what has been told since the last call, in order; consecutive rows of a job as one message."""
        with self._news:
            messages, self._inbox = self._inbox, []
        return messages

    @property
    def busy(self) -> bool:
        """Whether a job has not ended yet; refining a landscape does not count."""
        with self._news:
            return bool(self._open)

    @property
    def stopping(self) -> bool:
        """Whether a run has been told to stop and has not yet."""
        with self._news:
            return bool(self._stopping)

    @property
    def pid(self) -> int | None:
        """The worker process, where there is one."""
        with self._news:
            return self._lines[0].pid if self._lines else None

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until there is something to drain.

        Args:
            timeout: Seconds to wait at most.

        Returns:
            Whether there is.
        """
        with self._news:
            return self._news.wait_for(lambda: bool(self._inbox), timeout)

    def close(self) -> None:
        """End the worker process within a second; a run that is training is kept as `stopped` if that suffices."""
        with self._news:
            self._closed = True
        self._end()
        atexit.unregister(self._leave)
        with self._news:
            for key in list(self._open):
                self._stopped(key, "the trainer was closed")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # what follows is called with the lock held, or takes it

    def _line(self) -> Line:
        if not self._lines:
            limited = sys.platform == "linux" and not find_gpus()
            memory = physical_memory() if limited else None
            args = (environment(self.threads), self.threads, memory, self.store.url)
            me = weakref.ref(self)
            self._lines.append(
                Line(work, args, weakly(me, Trainer._heard), weakly(me, Trainer._died), "wbench-trainer")
            )
            self._sources = {}
            if self._landscape:
                self._lines[0].send("landscape", True)
        return self._lines[0]

    def _renew_for(self, found: dict[str, str]) -> None:
        # a worker that has imported a method's file before it was edited would train the old one under the new one's name
        stale = any(self._sources.get(name, digest) != digest for name, digest in found.items())
        if stale and self._lines and not self._open:
            self._lines.pop().send("hang_up")
        self._line()
        self._sources = found | self._sources

    def _post(self, *messages: Message) -> None:
        for message in messages:
            last = self._inbox[-1] if self._inbox else None
            if isinstance(message, Rows) and isinstance(last, Rows) and last.job == message.job:
                self._inbox[-1] = Rows(message.job, last.rows + message.rows)
            else:
                self._inbox.append(message)
        self._news.notify_all()

    def _stopped(self, key: int, reason: str = "it had not begun") -> None:
        job = self._open.pop(key)
        self._stopping.discard(key)
        self._post(Ended(key, None, "stopped", reason, time.monotonic() - job.begin if job.started else 0.0))

    def _heard(self, line: Line, message: Message | Ready) -> None:
        with self._news:
            if isinstance(message, Ready):
                line.heard = True
                self._send_all(line)
                return
            if isinstance(message, Started) and message.job in self._open:
                self._open[message.job].started, self._open[message.job].begin = message, time.monotonic()
            elif isinstance(message, Ended | Refused | Failed):
                self._open.pop(message.job, None)
                self._stopping.discard(message.job)
            self._post(message)

    def _send_all(self, line: Line) -> None:
        payloads = {id(job.payload): job.payload for job in self._open.values()}
        for name, payload in payloads.items():
            line.send("train", payload, [key for key, job in self._open.items() if id(job.payload) == name])

    def _died(self, line: Line, error: WorkerDiedError) -> None:
        if isinstance(self.store.place, LocalPlace):
            with suppress(RunError, OSError):  # what it has left half-written; a folder that is gone holds nothing
                self.store.sweep()
        with self._news:
            if line not in self._lines:  # it was replaced
                return
            self._lines.remove(line)
            for key in list(self._open if self._closed else self._stopping):
                self._stopped(key, "it did not stop by itself and was ended with its process; nothing of it is kept")
            began = [key for key, job in self._open.items() if job.started is not None]
            if not line.heard or (not began and not line.orderly):
                began = list(self._open)[: 1 if line.heard else None]
            for key in began:
                del self._open[key]
                self._post(Failed(key, type(error).__name__, str(error), ""))
            if line.heard and not self._closed:
                self._line()


def _overdue(me: weakref.ref[Trainer], line: Line, stop: int) -> None:
    trainer = me()
    if trainer is not None:
        with trainer._news:
            late = bool(trainer._stopping) and trainer._stops == stop
        if late:
            line.kill()


def _close_all(lines: list[Line]) -> None:
    for line in list(lines):
        line.close()
    lines.clear()
