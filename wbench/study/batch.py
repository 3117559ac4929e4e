"""The runs of one call: what can be stacked trains together, what fails is tried again in smaller parts."""

from __future__ import annotations

import pickle
import time
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from wbench.errors import WBenchError
from wbench.study.cluster import ClusterLostError
from wbench.study.pool import Processes
from wbench.study.process import WorkerDiedError
from wbench.study.progress import Arguments, Outcome, Progress, Unit
from wbench.study.worker import read_beat, train_alone, train_together
from wbench.training.families import family, obstacle
from wbench.training.job import Job

if TYPE_CHECKING:
    from wbench.study.runner import Runner

MAX_MEMBERS = 64
TICK = 0.25


class Batch:
    """The runs of one call of `Runner.run`.

    Args:
        runner: Whose settings, store and executor are used.
        wanted: Key to arguments of `train`, of all runs.
        jobs: Of those that the store does not have.
        outcome: Receives what comes of them as it comes.
    """

    def __init__(self, runner: Runner, wanted: Mapping[Any, Arguments], jobs: dict[Any, Job], outcome: Outcome) -> None:
        self.runner, self.wanted, self.jobs, self.outcome = runner, wanted, jobs, outcome
        self.waiting: dict[Future[Any], Unit] = {}
        self.begin, self.base = time.monotonic(), runner.done
        self.count = 0

    def work(self) -> None:
        """Train the runs, together where they can be.

        Raises:
            ClusterLostError: If the executor is a cluster and it is gone.
            KeyboardInterrupt: Passed on; an executor that the runner has made is stopped.
        """
        if not self.jobs:
            self.tell()
            return
        units = self._units()
        self.tell()
        if self.runner.inside:
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
            self.runner.kill()
            raise

    def _units(self) -> list[Unit]:
        groups: dict[str, list[Any]] = {}
        alone: list[Unit] = []
        for key, job in self.jobs.items():
            reason = obstacle(job) if self.runner.vectorize != "never" else "never"
            if reason:
                self._note(job, reason)
                alone.append(Unit([key], together=False))
            else:
                groups.setdefault(family(job), []).append(key)
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
        """Tell how far the study has come.

        Args:
            note: Something to tell beside.
        """
        if self.runner.told is None:
            return
        total = max(self.runner.total, 1)
        going = sum(len(unit.keys) * read_beat(unit.beat) for unit in self.waiting.values() if unit.beat)
        here = self.runner.done - self.base + going
        spent = time.monotonic() - self.begin
        left = spent / here * (total - self.base - here) if here > 0 and spent > 0 else None
        share = min(1.0, (self.runner.done + going) / total)
        self.runner.told(Progress(self.runner.done, total, share, left, len(self.outcome.failures), note))
