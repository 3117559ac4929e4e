"""`Chore`: work that takes minutes, in a process of its own beside the training: a report, or a claim."""

from __future__ import annotations

import atexit
import dataclasses
import io
import pickle
import re
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from wbench.errors import KnobError
from wbench.runs import RunStore
from wbench.study.process import WorkerDiedError, settle_in
from wbench.workbench.engine.line import Line, environment, weakly

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["report", "claim", "sweep"]
BAR = re.compile(r"^(?P<what>.*?): *(?P<percent>\d+)%\|[^|]*\|(?P<rest>.*)$")
CELLS = re.compile(r"(?P<done>\d+)/(?P<total>\d+)")
PAUSE = 0.2  # seconds between words on how far it has come


@dataclass(frozen=True)
class ClaimOutcome:
    """What came of a claim.

    Attributes:
        outcome: `reproduced`, `not reproduced`, `inconclusive` or `invalid`.
        control_outcome: The same of the control.
        reason: In one sentence.
        frame: As `Verdict.frame`.
    """

    outcome: str
    control_outcome: str
    reason: str
    frame: pd.DataFrame


@dataclass(frozen=True)
class ChoreState:
    """How far a chore has come.

    Attributes:
        kind: `report`, `claim` or `sweep`.
        share: In [0, 1], or `None` where it is not known.
        text: What happens, in a few words.
        done: Whether it has ended, in whatever way.
        error: Why it failed or was stopped; empty otherwise.
        result: Of a report or sweep the path of its HTML, of a claim its outcome; `None` until it is done.
    """

    kind: Kind
    share: float | None
    text: str
    done: bool = False
    error: str = ""
    result: Path | ClaimOutcome | None = None


class Chore:
    """A report or a claim in a process of its own, which starts workers of its own; all end with this process.

    Usage:
        chore = Chore.report(["galore"], "smoke", "out", RunStore())
        while not (state := chore.poll()).done:
            ...
    """

    def __init__(self, kind: Kind, store: RunStore, *arguments: Any) -> None:
        self._lock = threading.Lock()
        self._state = ChoreState(kind, None, "starting a process")
        args = (environment(None), kind, store.url, *arguments)
        me = weakref.ref(self)
        self._line = Line(_work, args, weakly(me, Chore._heard), weakly(me, Chore._died), f"wbench-{kind}")
        self._end = weakref.finalize(self, _end, self._line)
        atexit.register(self._end)  # before multiprocessing's own, which would wait for the process

    @classmethod
    def report(
        cls, methods: Sequence[str], scale: str = "cpu", out: str | Path = "out", store: RunStore | None = None
    ) -> Self:
        """Start `wbench.reports.report`.

        Args:
            methods: Ids; several: side by side.
            scale: `smoke`, `cpu` or `gpu`.
            out: Folder for the files.
            store: Where runs are kept and found.

        Returns:
            The chore.

        Raises:
            KnobError: If there is no method.
        """
        if not methods:
            raise KnobError("methods=[] is not allowed; allowed: one id or several")
        return cls("report", store or RunStore(), list(methods), scale, str(Path(out).absolute()))

    @classmethod
    def claim(cls, method_id: str, scale: str = "cpu", store: RunStore | None = None) -> Self:
        """Start `Claim.run` of a method's claim.

        Args:
            method_id: The method's id.
            scale: `smoke`, `cpu` or `gpu`.
            store: Where runs are kept and found.

        Returns:
            The chore.
        """
        return cls("claim", store or RunStore(), method_id, scale)

    @classmethod
    def sweep(cls, method_id: str, knob: str, store: RunStore | None = None, **options: Any) -> Self:
        """Start `wbench.reports.sweep` over the slider of one knob.

        Args:
            method_id: The method's id; empty: the baseline.
            knob: A knob of it, or a field of the recipe.
            store: Where runs are kept and found.
            **options: As of `wbench.reports.sweep`: task, scale, seeds, settings, out.

        Returns:
            The chore.
        """
        options["out"] = str(Path(options.get("out", "out")).absolute())
        return cls("sweep", store or RunStore(), method_id, knob, options)

    def poll(self) -> ChoreState:
        """Return how far it has come, at once."""
        with self._lock:
            return self._state

    def stop(self) -> None:
        """End it with all its processes; runs that have finished are kept. Does nothing when it is done."""
        self._set(error="stopped", text="stopped", done=True, share=None)
        self._end()
        atexit.unregister(self._end)

    def _set(self, **changes: Any) -> None:
        with self._lock:
            if not self._state.done:
                self._state = dataclasses.replace(self._state, **changes)

    def _heard(self, line: Line, said: dict[str, Any]) -> None:
        line.heard = True
        self._set(**said)

    def _died(self, line: Line, error: WorkerDiedError) -> None:
        self._set(error=str(error), text="failed", done=True, share=None)


def _end(line: Line) -> None:
    """Kill a chore's process and everything that it has started."""
    import psutil

    found = []
    with suppress(psutil.Error):
        if line.pid is not None and not line.gone.is_set():
            found = psutil.Process(line.pid).children(recursive=True)
    line.kill()
    for process in found:
        with suppress(psutil.Error):  # it has ended by itself
            process.kill()
    line.gone.wait(0.5)


# what follows runs in the chore's own process


def _work(pipe: connection.Connection, environment: dict[str, str], kind: Kind, url: str, *arguments: Any) -> None:
    settle_in(environment, None, None)

    def tell(**said: Any) -> None:
        pipe.send_bytes(pickle.dumps(said, pickle.HIGHEST_PROTOCOL))

    tell(text="loading")
    sys.stdout = sys.stderr = Listener(tell)
    try:
        result = WORK[kind](RunStore(url), *arguments)
    except Exception as error:  # whatever a user's method raises is told
        text = "".join(traceback.format_exception_only(error)).strip()
        tell(text="failed", error=str(error) or text, done=True, share=None)
    else:
        tell(text="done", share=1.0, result=result, done=True)


def _report(store: RunStore, methods: list[str], scale: str, out: str) -> Path:
    from wbench.reports import report

    return report(methods, scale=scale, out=out, store=store).html


def _sweep(store: RunStore, method_id: str, knob: str, options: dict[str, Any]) -> Path:
    from wbench.reports import sweep

    return sweep(method_id, {knob: []}, store=store, **options).html


def _claim(store: RunStore, method_id: str, scale: str) -> ClaimOutcome:
    from wbench import claims

    verdict = claims.get(method_id).run(scale, store=store, progress=True).verdict
    return ClaimOutcome(verdict.outcome, verdict.control_outcome, verdict.reason, verdict.frame())


WORK: dict[Kind, Callable[..., Any]] = {"report": _report, "claim": _claim, "sweep": _sweep}


class Listener(io.TextIOBase):
    """Takes the place of the standard streams and reads the progress bars that are drawn there.

    A report draws two: papermill's over cells, and that of the training inside the cell, which counts as a part of the cell.

    Args:
        tell: Receives `share` and `text`.
    """

    def __init__(self, tell: Callable[..., None]) -> None:
        self._tell, self._last = tell, 0.0
        self._cells: tuple[int, int] | None = None

    def writable(self) -> bool:
        """Return that it can be written to."""
        return True

    def write(self, text: str) -> int:
        """Take in what is drawn.

        Args:
            text: Any.

        Returns:
            Its length.
        """
        for line in re.split(r"[\r\n]+", text):
            found = BAR.match(line.strip())
            if found is not None:
                self._read(found["what"], int(found["percent"]) / 100, found["rest"].strip(", "))
        return len(text)

    def _read(self, what: str, share: float, rest: str) -> None:
        cells = CELLS.match(rest)
        if what.startswith("Executing") and cells is not None:
            self._cells = int(cells["done"]), int(cells["total"])
            self._say(self._cells[0] / self._cells[1], f"cell {self._cells[0]} of {self._cells[1]}", always=True)
        elif self._cells is not None:
            done, total = self._cells
            now = f"cell {min(done + 1, total)} of {total}: {what} {share:.0%}"
            self._say((done + share) / total, f"{now}, {rest}" if rest else now)
        else:
            self._say(share, f"{what}: {rest}" if rest else what)

    def _say(self, share: float, text: str, always: bool = False) -> None:
        now = time.monotonic()
        if always or now - self._last >= PAUSE:
            self._last = now
            self._tell(share=min(1.0, share), text=text)
