"""What the worker process does: it trains the jobs that come through its pipe, and looks for word at every step."""

from __future__ import annotations

import pickle
import time
import traceback
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing import connection
from typing import Any

import torch

from wbench.errors import RunError, WBenchError
from wbench.runs import Run, RunStore
from wbench.runs.local import LocalPlace
from wbench.runs.record import KEPT
from wbench.study.process import out_of_memory, settle_in
from wbench.training.job import Job, describe, find
from wbench.training.population import train_population
from wbench.training.train import train_job
from wbench.workbench.engine.live import PAUSE, LiveStore, LiveWriter
from wbench.workbench.engine.messages import (
    Ended,
    Landscape,
    Message,
    Progress,
    Ready,
    Refused,
    Started,
    failure,
)
from wbench.workbench.engine.rehearsal import rehearse
from wbench.workbench.engine.surface import LiveSurface, Surface, YieldError, empty
from wbench.workbench.engine.waiting import Wanted, next_group

LOOK = 0.02  # seconds between looks for word while steps are taken
MAX_SURFACES = 4  # landscapes that wait to be refined, each with its model; older ones are forgotten


def work(
    pipe: connection.Connection, environment: dict[str, str], threads: int | None, memory: float | None, url: str
) -> None:
    """Train what is asked for until told to end, or until the parent is gone.

    Args:
        pipe: To the parent.
        environment: As in `settle_in`.
        threads: As in `settle_in`.
        memory: As in `settle_in`.
        url: The run store's folder or address.
    """
    settle_in(environment, threads, memory)
    Worker(pipe, url).run()


class Worker:
    """The state of the worker process.

    Args:
        pipe: To the parent.
        url: The run store's folder or address.
    """

    def __init__(self, pipe: connection.Connection, url: str) -> None:
        self.pipe, self.url, self.store = pipe, url, RunStore(url)
        self.jobs: deque[Wanted] = deque()
        self.surfaces: list[Surface] = []  # the last one is worked on first
        self.unsaved: dict[str, LiveWriter] = {}  # by the run's id: what could not be written
        self.landscape = self.over = self.training = self.stopping = False
        self.looked = self.told = 0.0

    def run(self) -> None:
        """Do what is asked for, one thing after another."""
        with suppress(RunError):  # what processes that were killed have left half-written
            if isinstance(self.store.place, LocalPlace):
                self.store.sweep()
        self.tell(Ready())
        self.pipe.poll(LOOK)
        self.look()
        if not (self.jobs or self.over):  # nobody is waiting yet
            rehearse()
        while not self.over:
            self.look(wait=not self.jobs and not self.surfaces)
            if self.over:
                break
            if self.jobs:
                self._train()
            elif self.surfaces:
                with suppress(YieldError):
                    self.surfaces[-1].work(self.tell, self.pipe.poll)
                    self.surfaces.pop()

    def tell(self, message: Message | Ready) -> None:
        """Send a message; when nobody listens any more, this process comes to its end.

        Args:
            message: To the parent.
        """
        try:
            self.pipe.send_bytes(pickle.dumps(message, pickle.HIGHEST_PROTOCOL))
        except OSError:
            self._on_hang_up()

    def look(self, wait: bool = False) -> None:
        """Take in the commands that are there.

        Args:
            wait: Until there is one.
        """
        try:
            while wait or self.pipe.poll():
                wait = False
                name, *said = pickle.loads(self.pipe.recv_bytes())
                with torch.random.fork_rng(devices=[]):  # nothing that comes may touch the run that is being trained
                    getattr(self, f"_on_{name}")(*said)
        except (EOFError, ConnectionError):
            self._on_hang_up()

    def _on_train(self, payload: bytes, keys: Sequence[int]) -> None:
        try:
            wanted: Mapping[int, Mapping[str, Any]] = pickle.loads(payload)
        except Exception as error:  # a user's own objects raise what they like
            for key in keys:
                self.tell(failure(key, error))
            return
        alone = True
        for key in keys:
            try:
                job = describe(**wanted[key])
                known = find(job, self.store)
            except WBenchError as error:
                self.tell(Refused(key, type(error).__name__, str(error)))
            except Exception as error:  # a user's own task or method raises what it likes
                self.tell(failure(key, error))
            else:
                if known is not None:
                    self._ended(key, job, known, cached=True)
                    if key == keys[0]:
                        self._refine(key, known, job)
                else:
                    self.jobs.append(Wanted(key, job, alone))
                    alone = False

    def _on_stop(self) -> None:
        for wanted in self.jobs:
            self.tell(Ended(wanted.key, None, "stopped", "it had not begun", 0.0))
        self.jobs.clear()
        self.stopping = self.training

    def _on_landscape(self, on: bool) -> None:
        self.landscape = on
        if not on:
            self.surfaces.clear()

    def _on_refine(self, key: int, run_id: str, payload: bytes) -> None:
        try:
            job = describe(**pickle.loads(payload))
        except Exception as error:  # as in _on_train
            self.tell(Landscape(key, empty(), 0, True, None, f"{type(error).__name__}: {error}"))
        else:
            self._surface(key, run_id, job)

    def _on_hang_up(self) -> None:
        self.over, self.stopping = True, self.training
        self.jobs.clear()

    def _refine(self, key: int, run: Run, job: Job) -> None:
        if self.landscape and run.status == "finished":
            self._surface(key, run.id, job)

    def _surface(self, key: int, run_id: str, job: Job) -> None:
        if job.outside:
            self.tell(Landscape(key, empty(), 0, True, None, "a run that trains no network has no landscape"))
        else:
            self.surfaces.append(Surface(key, run_id, job, self.store))
            del self.surfaces[:-MAX_SURFACES]

    def _ended(self, key: int, job: Job, run: Run, cached: bool = False) -> None:
        if cached:
            self.tell(Started(key, job.id, job.recipe.total_steps, True))
        seconds = (run.info.get("timings") or {}).get("seconds", 0.0)
        self.tell(Ended(key, run.id, run.status, run.reason, float(seconds)))

    def _train(self) -> None:
        group = next_group(self.jobs)
        self.training, self.stopping = True, False
        store = LiveStore(self.url, {wanted.job.id: wanted.key for wanted in group}, self.tell)
        begin = time.perf_counter()
        try:
            if len(group) > 1:
                self._together(group, store)
            else:
                self._alone(group[0], store)
        except KeyboardInterrupt as error:
            self._stopped(group, store, str(error), time.perf_counter() - begin)
        except Exception as error:  # whatever a user's method raises: this job has failed, the next ones need not
            self._broken(group, store, error)
        finally:
            self.training = self.stopping = False

    def _alone(self, wanted: Wanted, store: LiveStore) -> None:
        key, job = wanted.key, wanted.job
        if (known := self._saved_now(job) or find(job, self.store)) is not None:
            self._ended(key, job, known, cached=True)
            return
        self.tell(Started(key, job.id, job.recipe.total_steps, False))
        surface = LiveSurface(key, job, self.tell, lambda: self.landscape, lambda: self._step(0))
        run = train_job(job, store, on_step=self._step, on_probe=surface)
        self._ended(key, job, run)
        self._refine(key, run, job)

    def _together(self, group: list[Wanted], store: LiveStore) -> None:
        total = group[0].job.recipe.total_steps
        for wanted in group:
            self.tell(Started(wanted.key, wanted.job.id, total, False))

        def step(done: float, of: float) -> None:
            self._step(int(done / of * total))
            if time.monotonic() - self.told >= PAUSE * max(1.0, len(group) / 4):
                self.told = time.monotonic()
                for wanted in group:
                    self.tell(Progress(wanted.key, done / of * total, total))

        population = train_population([wanted.job for wanted in group], store, on_step=step)
        for place, run in sorted(population.runs.items()):
            self._ended(group[place].key, group[place].job, run)
        left = [Wanted(group[place].key, group[place].job, alone=True) for place in sorted(population.alone)]
        self.jobs.extendleft(reversed(left))

    def _step(self, step: int, _: float = 0.0) -> None:
        if not self.stopping and time.monotonic() - self.looked >= LOOK:
            self.look()
            self.looked = time.monotonic()
        if self.stopping:
            raise KeyboardInterrupt(f"stopped at step {step}" if step else "stopped")

    def _stopped(self, group: list[Wanted], store: LiveStore, reason: str, seconds: float) -> None:
        try:
            store.keep_stopped(reason, seconds)
        except WBenchError as error:
            reason = str(error)
        for wanted in group:
            writer = store.writers.get(wanted.job.id)
            kept = writer.kept if writer is not None else None
            if kept is not None:
                self._ended(wanted.key, wanted.job, kept)
            else:
                self.tell(Ended(wanted.key, None, "stopped", reason, seconds))

    def _broken(self, group: list[Wanted], store: LiveStore, error: Exception) -> None:
        full = out_of_memory(error)
        if full:
            traceback.clear_frames(error.__traceback__)  # makes room for what follows
        if len(group) > 1:  # one of them is at fault: each by itself shows which
            self.jobs.extendleft(Wanted(wanted.key, wanted.job, alone=True) for wanted in reversed(group))
            return
        wanted, writer = group[0], store.writers.get(group[0].job.id)
        kept = writer.kept if writer is not None else None
        if isinstance(error, RunError) and isinstance(error.writer, LiveWriter) and error.writer.tried[0] in KEPT:
            self.unsaved = {wanted.job.id: error.writer}
        stepped = writer is not None and bool(writer.rows("train", "loss"))
        if isinstance(error, WBenchError) and kept is None and not stepped:
            self.tell(Refused(wanted.key, type(error).__name__, str(error)))
        else:
            self.tell(failure(wanted.key, error, kept.id if kept is not None else None, full))
        self.over = full  # who has run out of memory once had better begin anew

    def _saved_now(self, job: Job) -> Run | None:
        # a run that was trained but could not be written, because the disk was full for instance, is not trained again
        writer = self.unsaved.pop(job.id, None)
        return writer.commit(*writer.tried) if writer is not None else None
