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
import ctypes
import errno
import importlib
import math
import multiprocessing
import os
import pickle
import platform
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from wbench.errors import KnobError, WBenchError

P = ParamSpec("P")
T = TypeVar("T")

THREADS = ("OMP", "MKL", "OPENBLAS", "VECLIB_MAXIMUM", "NUMEXPR", "WBENCH")  # each with _NUM_THREADS or _THREADS
PATIENCE = 5.0  # seconds in which a worker that has nothing more to do should end by itself
LOOK = 1.0  # seconds between looks at workers whose death no pipe tells, as a child of theirs keeps it open


class TimeLimitError(WBenchError):
    """A call took longer than its limit."""


class WorkerDiedError(WBenchError):
    """The process that worked on a call ended before the call did."""


class OutOfMemoryError(WBenchError):
    """A call wanted more memory than its worker may take, or than the device has."""


@dataclass(eq=False)
class _Call:
    future: Future[Any]
    payload: bytes  # pickled function and arguments
    seconds: float | None
    place: int | None  # the worker that has to take it; None: any

    def cancel(self) -> None:
        """Cancel it before it runs, and tell those who wait for it."""
        self.future.cancel()
        self.future.set_running_or_notify_cancel()


class Processes(Executor):
    """Runs calls in processes.

    Workers start when there is work for them. Calls and results are pickled; functions have to be importable. A program
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
        self.workers = int(workers or len(self.gpus) or max(1, _cores() // threads))
        self.threads = threads
        if memory is None and not self.gpus and sys.platform == "linux":
            memory = physical_memory() / self.workers
        self.memory = memory if memory is not None and math.isfinite(memory) else None
        hidden = gpus is not None and not self.gpus
        names = [name + ("_THREADS" if name in {"WBENCH", "VECLIB_MAXIMUM"} else "_NUM_THREADS") for name in THREADS]
        self._environment = dict.fromkeys(names, str(threads)) | ({"CUDA_VISIBLE_DEVICES": ""} if hidden else {})
        self._lock = threading.Lock()  # guards the four below
        self._pending: deque[_Call] = deque()
        self._closed = self._killed = self._woken = False
        self._thread: threading.Thread | None = None
        self._ear, self._bell = multiprocessing.Pipe(duplex=False)
        self._slots = [_Slot(index) for index in range(self.workers)]  # only the thread touches them

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
        futures = [self._submit(None, place, _import, (module,), {}) for place in range(self.workers)]
        for future in futures:
            future.result()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls.

        Args:
            wait: Return when all calls and workers have ended.
            cancel_futures: Cancel the calls that have not started.
        """
        calls: list[_Call] = []
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
            self._pending.append(_Call(future, payload, seconds, place))
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

    def _take(self, place: int) -> _Call | None:
        """Return the first waiting call that a worker may take."""
        passed: list[_Call] = []
        found: _Call | None = None
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


class _Slot:
    """A place for a worker: its process, when there is one, and the call that it has or will have."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.process: BaseProcess | None = None
        self.pipe: connection.Connection
        self.call: _Call | None = None
        self.ready = self.sent = False
        self.deadline: float | None = None

    def start(self, environment: dict[str, str], threads: int, memory: float | None) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, environment, threads, memory), name="wbench-worker")
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
            error = error or _obituary(process, ready)
        self.process, self.ready = None, False
        self._settle(error)


def _obituary(process: BaseProcess, ready: bool) -> WorkerDiedError:
    code = process.exitcode
    cause = f"ended with exit code {code}"
    if code is not None and code < 0:
        cause = f"was killed by {signal.Signals(-code).name if -code in set(signal.Signals) else f'signal {-code}'}"
    advice = ""
    if code is not None and -code == getattr(signal, "SIGKILL", 9):
        advice = "; the system may have run out of memory: take fewer workers, or a limit with memory="
    elif not ready:
        advice = (
            " while it started; what it printed says why. A script needs `if __name__ == '__main__':` around its work"
        )
    return WorkerDiedError(f"the worker process {process.pid} {cause}{advice}")


# In the worker.


def _serve(pipe: connection.Connection, environment: dict[str, str], threads: int, memory: float | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    _follow_parent()
    os.environ.update(environment)
    if not {"numpy", "torch"}.isdisjoint(sys.modules):  # the parent's script, which spawn has run, may import them
        importlib.import_module("threadpoolctl").threadpool_limits(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
    keep_freed_memory()
    if memory is not None:
        import resource

        limit, (_, hard) = int(memory * 2**30), resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))

    def started() -> None:
        pipe.send_bytes(pickle.dumps(("started",)))

    last = False
    with suppress(EOFError, OSError):  # the parent has hung up
        pipe.send_bytes(pickle.dumps(("ready",)))
        while not last:
            reply, last = answer(pipe.recv_bytes(), memory, started)
            pipe.send_bytes(pickle.dumps(("answer", reply, last)))


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
        full = _out_of_memory(raised)
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


def _out_of_memory(error: BaseException) -> bool:
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
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent.pid:
            os._exit(1)


def _import(module: str) -> None:
    importlib.import_module(module)


def keep_freed_memory() -> bool:
    """Let the C library keep up to 512 MiB of freed memory for the next allocation; glibc only.

    Otherwise temporaries that are freed together go back to the system at each step, and come again page by page: that
    costs several times the arithmetic.

    Returns:
        Whether it took effect.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    settings = ((-3, 32 << 20), (-1, 512 << 20), (-2, 64 << 20))  # mmap threshold, trim threshold, top pad of malloc.h
    return all(libc.mallopt(ctypes.c_int(key), ctypes.c_int(value)) == 1 for key, value in settings)


# What the machine has.


def find_gpus() -> tuple[str, ...]:
    """Return the CUDA devices that torch sees, as CUDA_VISIBLE_DEVICES names them, without importing torch here.

    Where there is no NVIDIA driver nothing is asked; else a process that imports torch is (about 2 s), unless this one
    has it.
    """
    if not any(Path("/dev").glob("nvidia[0-9]*")) and shutil.which("nvidia-smi") is None:
        return ()
    if "torch" in sys.modules:
        count = int(sys.modules["torch"].cuda.device_count())
    else:
        code = "import torch; print(torch.cuda.device_count())"
        asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        count = int(asked.stdout) if asked.returncode == 0 else 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = [name.strip() for name in visible.split(",")] if visible else [str(index) for index in range(count)]
    return tuple(names[:count])


def physical_memory() -> float:
    """Return the memory of the machine or of this container, in GiB; Linux."""
    size = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with suppress(OSError, ValueError):  # no control group, or no limit ("max")
        size = min(size, float(Path("/sys/fs/cgroup/memory.max").read_text(encoding="utf-8")))
    return size / 2**30


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
