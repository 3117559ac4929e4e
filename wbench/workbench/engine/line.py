"""A worker process and the two threads of this process that speak and listen to it."""

from __future__ import annotations

import atexit
import importlib
import os
import pickle
import queue
import signal
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from wbench.study.process import WorkerDiedError
from wbench.study.slot import LOOK, PATIENCE, context, obituary

T = TypeVar("T")
GRACE = 0.6  # seconds in which a worker should end that was told to, before it is killed
REMEDY = "take a smaller model or batch"


class Line:
    """A worker process, started in the background. Its death ends the line.

    Args:
        target: What the process does: `target(pipe, *args)`; it says first that it is ready.
        args: Picklable.
        hear: Called with (line, what the worker has sent), in a thread of the line.
        gone: Called with (line, what it died of) when the worker has ended, likewise.
        name: Of the process.

    Attributes:
        pid: The process, once started.
        orderly: Whether it has ended by itself, with exit code 0.
        gone: Set when it has ended.
    """

    def __init__(
        self,
        target: Callable[..., None],
        args: tuple[Any, ...],
        hear: Callable[[Line, Any], None],
        died: Callable[[Line, WorkerDiedError], None],
        name: str,
    ) -> None:
        self.pid: int | None = None
        self.orderly = self.heard = False
        self.gone = threading.Event()
        self._target, self._args, self._name = target, args, name
        self._hear, self._died = hear, died
        self._process: BaseProcess | None = None
        self._killed = False
        self._lock = threading.Lock()  # guards the start of the process and `_killed`
        self._words: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=f"{name}-line", daemon=True)
        self._thread.start()

    def send(self, *command: Any) -> None:
        """Say something, without waiting until it is heard.

        Args:
            *command: Picklable.
        """
        self._words.put(pickle.dumps(command, pickle.HIGHEST_PROTOCOL))

    def kill(self) -> None:
        """End the process at once, whatever it is doing."""
        with self._lock:
            self._killed = True
            if self._process is not None:
                self._process.kill()

    def close(self) -> None:
        """Let the process end, and see to it that it does within a second."""
        self.send("hang_up")
        if threading.current_thread() is not self._thread:
            self.gone.wait(GRACE if self.heard else 0.0)
        self.kill()
        if threading.current_thread() is not self._thread:
            self.gone.wait(1.0 - GRACE)

    def _run(self) -> None:
        if hasattr(signal, "pthread_sigmask"):  # children inherit it: Ctrl-C while they start is for the parent alone
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        kind = context()
        pipe, theirs = kind.Pipe()
        process = kind.Process(target=self._target, args=(theirs, *self._args), name=self._name)
        error = None
        try:
            process.start()
        except (
            Exception
        ) as trouble:  # no memory, or a script that begins anew in its own workers: multiprocessing says what to do
            error = WorkerDiedError(f"no process could be started: {trouble}")
        theirs.close()
        if error is None:
            with self._lock:
                self._process, self.pid = process, process.pid
                if self._killed:
                    process.kill()
            voice = threading.Thread(target=self._speak, args=(pipe,), name=f"{self._name}-voice", daemon=True)
            voice.start()
            importlib.import_module("pandas")  # which the first table would wait for
            self._listen(pipe, process)
            process.join(PATIENCE)
            if process.exitcode is None:
                process.kill()
                process.join(PATIENCE)
            self.orderly = process.exitcode == 0
            error = obituary(process, self.heard, REMEDY)
            self._words.put(None)
            voice.join(PATIENCE)
        pipe.close()
        self._died(self, error)
        self.gone.set()

    def _listen(self, pipe: connection.Connection, process: BaseProcess) -> None:
        with suppress(EOFError, OSError):  # it is dead
            while True:
                if not pipe.poll(LOOK):  # a child of its own may keep the pipe open
                    if process.exitcode is not None and not pipe.poll():
                        return
                    continue
                self._hear(self, pickle.loads(pipe.recv_bytes()))

    def _speak(self, pipe: connection.Connection) -> None:
        with suppress(OSError):  # it is dead: the listener has noticed
            while (word := self._words.get()) is not None:
                pipe.send_bytes(word)


def environment(threads: int | None) -> dict[str, str]:
    """Return a worker's environment: this process's of now.

    Args:
        threads: For training and numerical libraries; `None`: as this process has it.
    """
    from wbench.study.pool import thread_variables

    return {**os.environ, **(thread_variables(threads) if threads is not None else {})}


def at_exit(method: Callable[[], None]) -> Callable[[], None]:
    """Call a method when the interpreter ends, if its object still lives: before multiprocessing waits for processes that run.

    Args:
        method: Bound.

    Returns:
        What `atexit.unregister` takes.
    """
    weak = weakref.WeakMethod(method)

    def leave() -> None:
        call = weak()
        if call is not None:
            call()

    atexit.register(leave)
    return leave


def weakly(me: weakref.ref[T], method: Callable[[T, Line, Any], None]) -> Callable[[Line, Any], None]:
    """Return a call of a method that does nothing once its object is gone: a line's threads keep nobody alive.

    Args:
        me: The object.
        method: Of its class.
    """

    def tell(line: Line, said: Any) -> None:
        owner = me()
        if owner is not None:
            method(owner, line, said)

    return tell
