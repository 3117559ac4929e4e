"""A run store that tells what its writers collect, while they collect it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from wbench.runs import Run, RunStore, RunWriter
from wbench.workbench.engine.messages import Message, Rows, Table

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

PAUSE = 0.08  # seconds between messages with rows of one run
Tell = Callable[[Message], None]


class LiveStore(RunStore):
    """A store for the runs of one call of training.

    Args:
        url: The store's folder or address.
        jobs: Run id to job; the runs that may be written.
        tell: Receives what is recorded.

    Attributes:
        writers: Run id to its writer, of the runs that have begun.
    """

    def __init__(self, url: str, jobs: Mapping[str, int], tell: Tell) -> None:
        super().__init__(url)
        self._jobs, self._tell = jobs, tell
        self._pause = PAUSE * max(1.0, len(jobs) / 4)
        self.writers: dict[str, LiveWriter] = {}

    def writer(self, spec: Mapping[str, Any], info: Mapping[str, Any] | None = None) -> RunWriter:
        """Begin a run, as `RunStore.writer`.

        Args:
            spec: What determines it.
            info: What is known besides.

        Returns:
            A writer that tells what it is given.
        """
        writer = LiveWriter(self, spec, info)
        writer.stream(self._jobs[writer.id], self._tell, self._pause)
        self.writers[writer.id] = writer
        return writer

    def keep_stopped(self, reason: str, seconds: float) -> None:
        """Keep what there is of the runs that have begun and are not kept yet, as `stopped`.

        Args:
            reason: Why they were stopped.
            seconds: That they took, together.
        """
        left = [writer for writer in self.writers.values() if writer.kept is None]
        for writer in left:
            writer.commit("stopped", reason, {"timings": {"seconds": seconds / len(left)}, "vectorized": True})


class LiveWriter(RunWriter):
    """A writer that also tells what it is given: tables at once, rows with pauses, none left at the end.

    Attributes:
        tried: What the last call of `commit` was given: status, reason, info.
        kept: The run, once it is written.
    """

    tried: tuple[str, str, Mapping[str, Any] | None] = ("", "", None)
    kept: Run | None = None

    def stream(self, job: int, tell: Tell, pause: float) -> None:
        """Tell from now on.

        Args:
            job: The number under which.
            tell: Whom.
            pause: Seconds between messages with rows.
        """
        self._job, self._tell, self._pause = job, tell, pause
        self._told, self._last = 0, float("-inf")

    def log(self, rows: list[dict[str, Any]]) -> None:
        """Append metric rows, as `RunWriter.log`.

        Args:
            rows: With step, phase, split, name, value.
        """
        super().log(rows)
        if time.monotonic() - self._last >= self._pause:
            self.flush()

    def table(self, name: str, frame: pd.DataFrame) -> None:
        """Append rows to a table, as `RunWriter.table`.

        Args:
            name: The table's name.
            frame: Rows.
        """
        super().table(name, frame)
        if "step" in frame.columns:  # else it is no record of a step but the scores of single items
            self._tell(Table(self._job, name, frame))

    def tensors(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep tensors, as `RunWriter.tensors`; what follows may take long, so nothing is held back.

        Args:
            name: `weights`, `trained`, ...
            tensors: Name to tensor.
        """
        self.flush()
        super().tensors(name, tensors)

    def flush(self) -> None:
        """Tell the rows that were held back."""
        rows = self._rows[self._told :]
        if rows:
            self._told += len(rows)
            self._last = time.monotonic()
            self._tell(Rows(self._job, rows))

    def commit(
        self,
        status: str = "finished",
        reason: str = "",
        info: Mapping[str, Any] | None = None,
        to: RunStore | None = None,
    ) -> Run:
        """Write everything, as `RunWriter.commit`.

        Args:
            status: How it ended.
            reason: Why, where it did not finish.
            info: Added to what is known.
            to: Another store.

        Returns:
            The run.
        """
        self.flush()
        self.tried = (status, reason, info)
        self.kept = super().commit(status, reason, info, to)
        return self.kept
