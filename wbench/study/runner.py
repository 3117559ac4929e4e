"""Many runs: what the store has is found, what can be stacked trains together, the rest goes to an executor."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, Literal

from wbench.errors import StudyError, WBenchError
from wbench.runs import RunStore
from wbench.study.batch import Batch
from wbench.study.pool import Processes
from wbench.study.progress import Arguments, Outcome, Told
from wbench.training.job import Job, describe
from wbench.training.population import BUDGET

Vectorize = Literal["auto", "always", "never"]
Pool = Executor | Callable[[], Executor]


class Runner:
    """Trains runs that the store does not have. As a context manager it ends the executor that it has made.

    Args:
        store: Where runs are kept and found.
        executor: Any `concurrent.futures` executor (left open), or a function that makes one (closed at the end); default
            processes, one a core.
        workers: How many processes; 1: this process, one run or population after another.
        vectorize: Train runs together that differ in numbers only: `auto` where it gains, `always` where it can be done, `never`.
        time_limit: Seconds that one run may take.
        memory: GiB that one worker may take; decides how many runs train together, too.
        total: How many runs there will be, over all calls of `run`.
        told: Is told of the progress.

    Raises:
        StudyError: If a setting is not allowed.
    """

    def __init__(
        self,
        store: RunStore,
        *,
        executor: Pool | None = None,
        workers: int | None = None,
        vectorize: Vectorize = "auto",
        time_limit: float | None = None,
        memory: float | None = None,
        total: int = 0,
        told: Told | None = None,
    ) -> None:
        if vectorize not in {"auto", "always", "never"}:
            raise StudyError(f"vectorize={vectorize!r} is not allowed; allowed: auto, always, never")
        if time_limit is not None and time_limit <= 0 or memory is not None and memory <= 0:
            raise StudyError(
                f"time_limit={time_limit}, memory={memory}: a limit must be positive, or None for no limit"
            )
        self.store, self.vectorize, self.time_limit, self.memory, self.told = store, vectorize, time_limit, memory, told
        self._given = executor
        self.inside = executor is None and workers == 1 and time_limit is None and memory is None
        self._workers = workers
        self._executor: Executor | None = None
        self._scratch = ""
        self.done, self.total = 0, total

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the executor, if this runner has made it, without waiting for what is not begun."""
        if self._executor is not None and self._executor is not self._given:
            self._executor.shutdown(wait=True, cancel_futures=True)
        self._executor = None
        if self._scratch:
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._scratch = ""

    def kill(self) -> None:
        """Stop the executor, if this runner has made it and it can be stopped, and what it works on."""
        kill = getattr(self._executor, "kill", None) if self._executor is not self._given else None
        if kill is not None:
            kill()

    def run(self, wanted: Mapping[Any, Arguments], outcome: Outcome | None = None) -> Outcome:
        """Find or train runs.

        Args:
            wanted: Key to arguments of `train`.
            outcome: Receives what comes of them as it comes; default a new one.

        Returns:
            The outcome; failed runs are in it, and stand in the store as `failed` with their reason.

        Raises:
            ClusterLostError: If the executor is a cluster and it is gone; finished runs are kept.
            KeyboardInterrupt: Passed on; finished runs are kept.
        """
        outcome = outcome if outcome is not None else Outcome()
        jobs: dict[Any, Job] = {}
        for key, arguments in wanted.items():
            try:
                jobs[key] = describe(**arguments)
            except WBenchError as error:
                outcome.failures[key] = str(error)
        known = self.store.finished(job.id for job in jobs.values())
        outcome.runs.update({key: known[job.id] for key, job in jobs.items() if job.id in known})
        pending = {key: job for key, job in jobs.items() if job.id not in known}
        self.done += len(wanted) - len(pending)
        Batch(self, wanted, pending, outcome).work()
        return outcome

    @property
    def workers(self) -> int:
        """How many runs or populations train at once, as far as that is known."""
        if self.inside:
            return 1
        return int(getattr(self.executor, "workers", None) or getattr(self.executor, "_max_workers", None) or 2)

    @property
    def executor(self) -> Executor:
        """The executor, made when first needed."""
        if self._executor is None:
            made = self._given if self._given is not None else lambda: Processes(self._workers, memory=self.memory)
            self._executor = made if isinstance(made, Executor) else made()
            if isinstance(self._executor, Processes) and self.time_limit:
                self._executor.warm("wbench.study.warm")
        return self._executor

    @property
    def always(self) -> bool:
        """Whether large models are stacked, too."""
        return self.vectorize == "always"

    @property
    def budget(self) -> float:
        """GiB for the members of one step."""
        return self.memory / 2 if self.memory else BUDGET

    def beat(self, name: str) -> str:
        """Return a file in which a worker of this machine can note how far it has come."""
        if not self._scratch:
            self._scratch = tempfile.mkdtemp(prefix="wbench-")
        return str(Path(self._scratch) / name)
