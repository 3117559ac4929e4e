"""The loss landscape of a run: coarse while it trains, finer and finer when it has finished."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import nn

from wbench.errors import WBenchError
from wbench.method import Context
from wbench.probes.landscape import landscape, unchanged
from wbench.runs import RunStore
from wbench.splits import Batch, LoaderSplit, Split
from wbench.task import Task
from wbench.training.device import derive, seeded, threads
from wbench.training.job import Job
from wbench.training.restore import restore
from wbench.workbench.engine.live import Tell
from wbench.workbench.engine.messages import Landscape

if TYPE_CHECKING:
    import pandas as pd

SAMPLES = 256
COARSE = 9
LEVELS = (9, 17, 33)  # points an axis; each holds the points of the one before
SHARE = 0.15  # of the time of training that live landscapes may take: 0.2 is allowed, and the next one's cost is an estimate
TABLE = "landscape"
COLUMNS = ("alpha", "beta", "loss")


class YieldError(Exception):
    """Something else is to be done first; never leaves the worker."""


def sample(split: Split, seed: int) -> Batch:
    """Return the training samples over which a run's landscape is taken: the same ones at every time.

    Args:
        split: The training data.
        seed: The run's.
    """
    batch = next(split.batches(SAMPLES, torch.Generator().manual_seed(derive(seed, "landscape"))))
    return tuple(part[:SAMPLES] for part in batch)


def empty() -> pd.DataFrame:
    """Return a landscape without points."""
    import pandas as pd

    return pd.DataFrame(columns=list(COLUMNS), dtype=float)


class LiveSurface:
    """Takes a coarse landscape at records of the probes, as often as its cost allows, and leaves the run as it is.

    Args:
        job: The number under which to tell.
        described: What trains.
        tell: Receives the landscapes.
        wanted: Whether somebody looks at them.
        poll: Called between evaluations; may raise.
    """

    def __init__(
        self, job: int, described: Job, tell: Tell, wanted: Callable[[], bool], poll: Callable[[], None]
    ) -> None:
        self.job, self.seed, self.task = job, described.seed, described.task
        self.tell, self.wanted, self.poll = tell, wanted, poll
        self.batch: Batch | None = None
        self.begin = time.perf_counter()
        self.spent, self.cost, self.point, self.given_up = 0.0, 0.0, 0.0, False

    def __call__(self, model: nn.Module, ctx: Context) -> None:
        """Take a landscape now, if it is wanted and can be afforded.

        Args:
            model: The prepared model.
            ctx: Its run.
        """
        start = time.perf_counter()
        trained = start - self.begin - self.spent
        if self.given_up or not self.wanted() or self.spent + (self.cost or self.point) > SHARE * trained:
            return
        methods = torch.Generator().set_state(ctx.rng.get_state())
        try:
            with unchanged(model):
                self._take(model.eval(), ctx, SHARE * trained - self.spent)
        except Exception as error:  # whatever a model raises on data that it is not trained on: the run goes on
            self.given_up = True
            self.tell(Landscape(self.job, empty(), 0, True, ctx.step, f"{type(error).__name__}: {error}"))
        finally:
            ctx.rng.set_state(methods.get_state())
            self.spent += time.perf_counter() - start

    def _take(self, model: nn.Module, ctx: Context, budget: float) -> None:
        if self.batch is None:
            split = ctx.splits["train"]
            if isinstance(split, LoaderSplit):
                raise WBenchError(
                    "a loader's batches are the run's own: the landscape is taken when the run has finished"
                )
            self.batch = tuple(part.to(ctx.device) for part in sample(split, self.seed))
        batch, task = self.batch, self.task

        def loss(model: nn.Module) -> torch.Tensor:
            self.poll()
            return task.loss(model(batch[0]), batch).mean()

        if not self.cost:  # none was taken yet: what does one point cost?
            start = time.perf_counter()
            with torch.no_grad(), unchanged(model, parameters=False):
                loss(model)
            self.point = time.perf_counter() - start
            if 1.5 * COARSE**2 * self.point > budget:
                return
        start = time.perf_counter()
        frame = landscape(model, loss, dims=2, points=COARSE, seed=self.seed)
        self.cost = time.perf_counter() - start
        self.tell(Landscape(self.job, frame, COARSE, False, ctx.step))


class Surface:
    """The landscape of a finished run, taken level by level; can be left at any point and taken up again.

    Args:
        job: The number under which to tell.
        run_id: The run.
        described: What was trained.
        store: Where the run lies.
    """

    def __init__(self, job: int, run_id: str, described: Job, store: RunStore) -> None:
        self.job, self.run_id, self.store = job, run_id, store
        self.described = described
        self.model: nn.Module | None = None
        self.level = 0
        self.values: dict[tuple[int, int], float] = {}

    def work(self, tell: Tell, interrupted: Callable[[], bool]) -> None:
        """Go on until the finest level is kept with the run.

        Args:
            tell: Receives each level.
            interrupted: Asked before each evaluation; when true, the work is left.

        Raises:
            YieldError: When it is left.
        """
        try:
            with seeded(0, self.described.device), threads(self.described.device):
                self._levels(tell, interrupted)
        except YieldError:
            raise
        except Exception as error:  # whatever a model or its data raise: there is no landscape, and the worker goes on
            tell(Landscape(self.job, empty(), 0, True, None, f"{type(error).__name__}: {error}"))

    def _levels(self, tell: Tell, interrupted: Callable[[], bool]) -> None:
        run = self.store.get(self.run_id)
        if TABLE in run.probes:
            tell(Landscape(self.job, run.probe(TABLE), LEVELS[-1], True))
            return
        task = self.described.task
        if self.model is None:
            self.model = restore(run, task=task, methods=list(self.described.methods)).to(self.described.device)
            self.batch = tuple(
                part.to(self.described.device) for part in sample(task.data(run.seed)["train"], run.seed)
            )
        while self.level < len(LEVELS):
            frame, points = self._frame(self.model, task, run.seed, interrupted), LEVELS[self.level]
            self.level += 1
            self.values = {(2 * row, 2 * column): value for (row, column), value in self.values.items()}
            last, note = self.level == len(LEVELS), ""
            if last:
                try:
                    run.attach(TABLE, frame)
                except WBenchError as error:
                    note = str(error)
            tell(Landscape(self.job, frame, points, last, None, note))

    def _frame(self, model: nn.Module, task: Task, seed: int, interrupted: Callable[[], bool]) -> pd.DataFrame:
        batch, points, calls = self.batch, LEVELS[self.level], 0

        def loss(model: nn.Module) -> float:
            nonlocal calls
            place = divmod(calls, points)
            calls += 1
            if place not in self.values:  # of the level before, or from before the work was left
                if interrupted():
                    raise YieldError
                self.values[place] = float(task.loss(model(batch[0]), batch).mean())
            return self.values[place]

        return landscape(model, loss, dims=2, points=points, seed=seed)
