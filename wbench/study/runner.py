"""Many runs: what the store has is found, what can be stacked trains together, the rest goes to an executor."""

from __future__ import annotations

import pickle
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from wbench.errors import StudyError, WBenchError
from wbench.runs import RunStore
from wbench.study.cluster import ClusterLostError
from wbench.study.pool import Processes, WorkerDiedError
from wbench.study.progress import Arguments, Outcome, Progress, Told, Unit
from wbench.study.worker import read_beat, train_alone, train_together
from wbench.training.families import family, obstacle
from wbench.training.job import Job, describe
from wbench.training.population import BUDGET

MAX_MEMBERS = 64
TICK = 0.25
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
        self._inside = executor is None and workers == 1 and time_limit is None and memory is None
        self._workers = workers
        self._executor: Executor | None = None
        self._stacked: dict[str, str] = {}  # family to why it is not stacked
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
        _Batch(self, wanted, pending, outcome).work()
        return outcome

    @property
    def workers(self) -> int:
        """How many runs or populations train at once, as far as that is known."""
        if self._inside:
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


class _Batch:
    """The runs of one call of `Runner.run`."""

    def __init__(self, runner: Runner, wanted: Mapping[Any, Arguments], jobs: dict[Any, Job], outcome: Outcome) -> None:
        self.runner, self.wanted, self.jobs, self.outcome = runner, wanted, jobs, outcome
        self.waiting: dict[Future[Any], Unit] = {}
        self.begin, self.base = time.monotonic(), runner.done
        self.count = 0

    def work(self) -> None:
        if not self.jobs:
            self.tell()
            return
        units = self._units()
        self.tell()
        if self.runner._inside:
            while units:
                units += self._here(units.pop(0))
            return
        try:
            for unit in units:
                self._submit(unit)
            while self.waiting:
                done, _ = wait(self.waiting, timeout=TICK, return_when=FIRST_COMPLETED)
                for future in done:
                    for unit in self._settle(self.waiting.pop(future), future):
                        self._submit(unit)
                self.tell()
        except BaseException:
            for future in self.waiting:
                future.cancel()
            if self.runner._executor is not self.runner._given:
                kill = getattr(self.runner._executor, "kill", None)
                if kill is not None:
                    kill()
            raise

    def _units(self) -> list[Unit]:
        groups: dict[str, list[Any]] = {}
        alone: list[Unit] = []
        for key, job in self.jobs.items():
            reason = obstacle(job) if self.runner.vectorize != "never" else "never"
            kin = family(job) if not reason else ""
            reason = reason or self.runner._stacked.get(kin, "")
            if reason:
                self._note(job, reason)
                alone.append(Unit([key], together=False))
            else:
                groups.setdefault(kin, []).append(key)
        together: list[Unit] = []
        for keys in groups.values():
            keys.sort(key=lambda key: self._order(self.jobs[key]))
            size = min(MAX_MEMBERS, -(-len(keys) // self.runner.workers))
            together += [Unit(keys[i : i + size], together=True) for i in range(0, len(keys), size)]
        return together + alone

    @staticmethod
    def _order(job: Job) -> Any:  # members that agree in settings side by side
        return str([method.fields() for method in job.methods]), job.recipe.lr, str(job.recipe.fields()), job.seed

    def _submit(self, unit: Unit) -> None:
        executor, url = self.runner.executor, self.runner.store.url
        self.count += 1
        unit.beat = self.runner.beat(str(self.count)) if isinstance(executor, Processes) else ""
        arguments = [self.wanted[key] for key in unit.keys]
        try:
            pickle.dumps(arguments)
        except Exception as error:  # a user's own objects raise what they like
            self._say(f"trained in this process, as it cannot be sent to another: {error}")
            for more in self._here(unit):
                self._submit(more)
            return
        limit = self.runner.time_limit * len(unit.keys) if self.runner.time_limit else None
        call: tuple[Any, ...] = (train_alone, arguments[0], url, unit.beat)
        if unit.together:
            call = (train_together, arguments, url, self.runner.budget, self.runner.always, unit.beat)
        if limit is None:
            future = executor.submit(*call)
        elif hasattr(executor, "submit_limited"):
            future = executor.submit_limited(limit, *call)
        else:
            name = type(executor).__name__
            raise WBenchError(f"time_limit needs an executor that can end a run; {name} cannot, the default can")
        self.waiting[future] = unit

    def _here(self, unit: Unit) -> list[Unit]:
        future: Future[Any] = Future()
        arguments, url = [self.wanted[key] for key in unit.keys], self.runner.store.url
        try:
            if unit.together:
                future.set_result(train_together(arguments, url, self.runner.budget, self.runner.always))
            else:
                future.set_result(train_alone(arguments[0], url))
        except Exception as error:
            future.set_exception(error)
        more = self._settle(unit, future)
        self.tell()
        return more

    def _settle(self, unit: Unit, future: Future[Any]) -> list[Unit]:
        # takes in what came of a unit; what is to be done again, in smaller parts, comes back
        if future.cancelled():
            raise ClusterLostError("the executor has cancelled its work; start the study again, finished runs are kept")
        error = future.exception()
        if error is None:
            return self._take(unit, future.result())
        if isinstance(error, ClusterLostError) or not isinstance(error, Exception):
            raise error
        if len(unit.keys) > 1:  # one of them is at fault: the others do not depend on who trains beside them
            half = len(unit.keys) // 2
            return [Unit(unit.keys[:half], True), Unit(unit.keys[half:], True)]
        if isinstance(error, WorkerDiedError) and not unit.tries:
            return [Unit(unit.keys, unit.together, tries=1)]
        self._fail(unit.keys[0], str(error) or type(error).__name__)
        return []

    def _take(self, unit: Unit, results: list[tuple[str | None, str]]) -> list[Unit]:
        more: list[Unit] = []
        for key, (name, reason) in zip(unit.keys, results, strict=True):
            if name is None:
                self._note(self.jobs[key], reason)
                more.append(Unit([key], together=False))
            else:
                self.outcome.runs[key] = self.runner.store.get(name)
                self.runner.done += 1
        return more

    def _fail(self, key: Any, reason: str) -> None:
        self.outcome.failures[key] = reason
        self.runner.done += 1
        job = self.jobs[key]
        known = self.runner.store.find(job.id)
        if known is None or known.status == "stopped":
            with suppress(WBenchError):  # a store that is full cannot even be told so; the reason stands in the outcome
                self.runner.store.writer(job.spec, {"title": job.task.title}).commit("failed", reason)

    def _note(self, job: Job, reason: str) -> None:
        if self.runner.vectorize == "never":
            return
        label = " + ".join([job.task.id, *(method.id for method in job.methods)])
        self._say(f"{label} trains run by run: {reason}")

    def _say(self, note: str) -> None:
        if note not in self.outcome.notes:
            self.outcome.notes.append(note)
            self.tell(note)

    def tell(self, note: str = "") -> None:
        if self.runner.told is None:
            return
        total = max(self.runner.total, 1)
        going = sum(len(unit.keys) * read_beat(unit.beat) for unit in self.waiting.values() if unit.beat)
        here = self.runner.done - self.base + going
        spent = time.monotonic() - self.begin
        left = spent / here * (total - self.base - here) if here > 0 and spent > 0 else None
        share = min(1.0, (self.runner.done + going) / total)
        self.runner.told(Progress(self.runner.done, total, share, left, len(self.outcome.failures), note))
