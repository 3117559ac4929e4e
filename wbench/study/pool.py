"""A pool of processes that survives what its calls do: they may raise, hang, run out of memory or die.

Usage:
    with Processes() as pool:
        future = pool.submit_limited(3600, train_one, config)

Pools whose workers share one queue lose all calls when a worker dies at the wrong moment. Here each worker has a pipe
of its own and no lock is shared: the death of one cannot reach another. One thread of the parent owns all workers and
sleeps until a pipe, a limit or a new call has something to tell.
"""

from __future__ import annotations

import atexit
import math
import multiprocessing
import pickle
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from multiprocessing import connection
from typing import Any, ParamSpec, TypeVar

from wbench.errors import KnobError
from wbench.machine import cores, find_gpus, physical_memory
from wbench.study.process import OutOfMemoryError, TimeLimitError, WorkerDiedError, load
from wbench.study.slot import LOOK, Call, Slot

P = ParamSpec("P")
T = TypeVar("T")

THREADS = ("OMP", "MKL", "OPENBLAS", "VECLIB_MAXIMUM", "NUMEXPR", "WBENCH")  # each with _NUM_THREADS or _THREADS


def thread_variables(threads: int) -> dict[str, str]:
    """Return the environment variables by which training and numerical libraries take their number of threads.

    Args:
        threads: How many.
    """
    names = [name + ("_THREADS" if name in {"WBENCH", "VECLIB_MAXIMUM"} else "_NUM_THREADS") for name in THREADS]
    return dict.fromkeys(names, str(threads))


class Processes(Executor):
    """Runs calls in processes.

    Workers start when there is work for them; on Linux they are forked off a server that has imported torch and wbench once
    and does nothing else, so that all but the first start in a moment. They have this process's environment of that moment. Calls and results are pickled; functions have to be importable. A program
    that ends without `shutdown` ends the calls under way, and a parent that is killed takes its workers along.

    Args:
        workers: How many processes; default one per GPU where torch sees any, else one per core this process may use
            (divided by `threads`).
        threads: Threads that numerical libraries may use in each worker.
        memory: GiB of memory a worker may take (`math.inf`: no limit); a call that wants more gets `OutOfMemoryError`.
            Default: the machine's memory divided by the workers; no limit on GPUs (CUDA maps far more than it uses) and
            where the system enforces none (other than Linux).
        gpus: CUDA devices to deal out, one to each worker in turn; `()`: none. Default: those that torch counts, asked
            in a process of its own, and only where the NVIDIA driver is installed.

    Raises:
        KnobError: If a number is not positive, or `memory` is given where it cannot be enforced.
    """

    def __init__(
        self,
        workers: int | None = None,
        *,
        threads: int = 1,
        memory: float | None = None,
        gpus: Sequence[int | str] | None = None,
    ) -> None:
        for name, value in (("workers", workers), ("threads", threads), ("memory", memory)):
            if value is not None and not value > 0:
                raise KnobError(f"{name}={value!r} is not allowed; allowed: a positive number, or None for automatic")
        if memory is not None and math.isfinite(memory) and sys.platform != "linux":
            raise KnobError(f"memory={memory}: {sys.platform} enforces no limit for a process; leave it out")
        self.gpus = find_gpus() if gpus is None else tuple(str(gpu) for gpu in gpus)
        self.workers = int(workers or len(self.gpus) or max(1, cores() // threads))
        self.threads = threads
        if memory is None and not self.gpus and sys.platform == "linux":
            memory = physical_memory() / self.workers
        self.memory = memory if memory is not None and math.isfinite(memory) else None
        hidden = gpus is not None and not self.gpus
        self._environment = thread_variables(threads) | ({"CUDA_VISIBLE_DEVICES": ""} if hidden else {})
        self._lock = threading.Lock()  # guards the four below
        self._pending: deque[Call] = deque()
        self._closed = self._killed = self._woken = False
        self._thread: threading.Thread | None = None
        self._ear, self._bell = multiprocessing.Pipe(duplex=False)
        self._slots = [Slot(index) for index in range(self.workers)]  # only the thread touches them

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run a call in a worker.

        Args:
            fn: Importable.
            args: Its arguments, picklable.
            kwargs: The same.

        Returns:
            Its future. Besides what the call raises, it may raise `WorkerDiedError` and `OutOfMemoryError`; an
            exception that cannot be pickled arrives as a `RuntimeError` with its text.
        """
        return self._submit(None, None, fn, args, kwargs)

    def submit_limited(
        self, seconds: float | None, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[T]:
        """Run a call that may take a limited time.

        Args:
            seconds: Counted from when the call starts, not while it waits or is imported; `None`: no limit.
            fn: As in `submit`.
            args: As in `submit`.
            kwargs: As in `submit`.

        Returns:
            Its future, which raises `TimeLimitError` over the limit; the worker is killed and replaced.

        Raises:
            KnobError: If the limit is not positive.
        """
        if seconds is not None and not seconds > 0:
            raise KnobError(
                f"a time limit of {seconds!r} s is not allowed; allowed: a positive number, or None for no limit"
            )
        return self._submit(seconds, None, fn, args, kwargs)

    def warm(self, module: str = "wbench.training.train") -> None:
        """Start all workers and import a module in each; returns when they are ready.

        Args:
            module: What to import.
        """
        futures = [self._submit(None, place, load, (module,), {}) for place in range(self.workers)]
        for future in futures:
            future.result()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls.

        Args:
            wait: Return when all calls and workers have ended.
            cancel_futures: Cancel the calls that have not started.
        """
        calls: list[Call] = []
        with self._lock:
            self._closed = True
            if cancel_futures:
                calls = list(self._pending)
                self._pending.clear()
                for call in filter(None, (slot.call for slot in self._slots)):
                    call.future.cancel()  # has an effect on those that wait for their worker to start
            self._ring()
            thread = self._thread
        for call in calls:
            call.cancel()
        if wait and thread is not None and thread is not threading.current_thread():
            thread.join()

    def kill(self) -> None:
        """Take no more calls, cancel what has not started and kill the workers; returns when they are gone."""
        with self._lock:
            self._killed = True
        self.shutdown(wait=True, cancel_futures=True)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.shutdown(wait=True)
        else:  # nobody is left to take the results
            self.kill()

    def _submit(
        self,
        seconds: float | None,
        place: int | None,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            payload = pickle.dumps((fn, args, dict(kwargs)), pickle.HIGHEST_PROTOCOL)
        except Exception as error:  # objects raise what they like
            future.set_running_or_notify_cancel()
            future.set_exception(error)
            return future
        with self._lock:
            if self._closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._pending.append(Call(future, payload, seconds, place))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="wbench-pool", daemon=True)
                self._thread.start()
                atexit.register(self.kill)  # before multiprocessing's own, which would wait for the workers
            self._ring()
        return future

    def _ring(self) -> None:
        if not self._woken:  # at most one byte in the pipe, so that this cannot block
            self._woken = True
            self._bell.send_bytes(b".")

    def _run(self) -> None:
        if hasattr(signal, "pthread_sigmask"):  # children inherit it: Ctrl-C while they start is for the parent alone
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        reason: BaseException = WorkerDiedError("the pool was shut down while the call ran")
        try:
            while self._assign():
                self._listen()
        except BaseException as error:
            reason = error
            raise
        finally:
            with self._lock:
                self._closed = True
                left = list(self._pending)
                self._pending.clear()
            for slot in self._slots:
                slot.hang_up(now=self._killed)
            for slot in self._slots:
                slot.end(reason)
            for call in left:
                call.cancel()
            atexit.unregister(self.kill)

    def _assign(self) -> bool:
        """Give waiting calls to free workers.

        Returns:
            Whether there is more to do.
        """
        with self._lock:
            if self._killed:
                return False
            for slot in sorted(self._slots, key=lambda slot: not slot.ready):
                if slot.call is None:
                    slot.call = self._take(slot.index)
            if self._closed and not self._pending and not any(slot.call for slot in self._slots):
                return False
        for slot in self._slots:
            if slot.call is not None and not slot.sent:
                if slot.process is None:
                    gpu = {"CUDA_VISIBLE_DEVICES": self.gpus[slot.index % len(self.gpus)]} if self.gpus else {}
                    slot.start(self._environment | gpu, self.threads, self.memory)
                elif slot.ready and not slot.send():  # it was cancelled: the worker can take another
                    with self._lock:
                        self._ring()
        return True

    def _take(self, place: int) -> Call | None:
        """Return the first waiting call that a worker may take."""
        passed: list[Call] = []
        found: Call | None = None
        while self._pending and found is None:
            call = self._pending.popleft()
            if call.future.cancelled():
                call.cancel()
            elif call.place in {None, place}:
                found = call
            else:
                passed.append(call)
        self._pending.extendleft(reversed(passed))
        return found

    def _listen(self) -> None:
        """Sleep until something happens, and take it in."""
        slots = [slot for slot in self._slots if slot.process is not None]
        times = [slot.deadline - time.monotonic() for slot in slots if slot.deadline is not None]
        connection.wait([self._ear, *(slot.pipe for slot in slots)], max(0.0, min([*times, LOOK])) if slots else None)
        with self._lock:
            if self._ear.poll():
                self._ear.recv_bytes()
                self._woken = False
        for slot in slots:
            slot.listen()


__all__ = ["OutOfMemoryError", "Processes", "TimeLimitError", "WorkerDiedError"]
