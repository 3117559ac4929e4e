"""Loss landscapes while they become finer, of runs that have ended and of those that train."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from wbench.errors import RunError, WBenchError
from wbench.recipe import Recipe
from wbench.runs import Run
from wbench.task import Task
from wbench.training.restore import methods_of, rebuild, task_of
from wbench.workbench.engine.messages import Landscape
from wbench.workbench.engine.trainer import Trainer
from wbench.workbench.jobs import Heard, Jobs
from wbench.workbench.shown import LiveRun, Shown


class Surfaces:
    """The landscapes that are being computed.

    Args:
        trainer: Computes them.
        jobs: What trains.
        task: The task on the controls, for runs of a user's own.
    """

    def __init__(self, trainer: Trainer, jobs: Jobs, task: Callable[[], Task]) -> None:
        self._trainer, self._jobs, self._task = trainer, jobs, task
        self._found: dict[str, LiveRun] = {}
        self._asked: dict[int, str] = {}

    @property
    def busy(self) -> bool:
        """Whether one is being computed."""
        return bool(self._asked)

    def ask(self, shown: Sequence[Shown]) -> str:
        """Have the landscapes computed of finished runs that have none.

        Args:
            shown: What is on display; of each the first run.

        Returns:
            Why one cannot be; empty: all is well.
        """
        for item in shown:
            for run in item.runs[:1]:
                run = run.run if isinstance(run, WithSurface) else run
                if (
                    not isinstance(run, Run)
                    or run.status != "finished"
                    or "landscape" in run.probes
                    or run.id in self._found
                ):
                    continue
                try:
                    given = {
                        "task": self._task_of(run), "methods": methods_of(run), "seed": run.seed,
                        "recipe": rebuild(Recipe, run.spec["recipe"]),
                    }  # fmt: skip
                    job = self._jobs.number()
                    self._asked[job], self._found[run.id] = run.id, LiveRun(run.seed)
                    self._trainer.refine(job, run.id, given)
                except WBenchError as error:
                    return f"The landscape of {item.name} cannot be computed: {error}"
        return ""

    def _task_of(self, run: Run) -> Task:
        try:
            return task_of(run)
        except RunError:
            return self._task()

    def hear(self, message: Landscape) -> Heard:
        """Take in a landscape, of a run that trains or of one that was asked for.

        Args:
            message: The message.

        Returns:
            What it means for the panel.
        """
        name = self._asked.get(message.job, "")
        if message.last or not message.points:
            self._asked.pop(message.job, None)
        if message.note and not message.points:
            return Heard(f"The landscape cannot be computed: {message.note}", wrong=True, grown={"landscape"})
        live = self._jobs.live(message.job)
        target = live if live is not None else self._found.get(name)
        if target is not None:
            if message.step is None:
                target.put_table("landscape", message.frame)
            else:
                target.add_table("landscape", message.frame.assign(step=message.step))
        return Heard(grown={"landscape"})

    def add(self, shown: Sequence[Shown]) -> None:
        """Put the landscapes beside the runs that they are of.

        Args:
            shown: What is on display; changed in place.
        """
        for item in shown:
            item.runs = [self._beside(run) for run in item.runs]

    def _beside(self, run: Any) -> Any:
        surface = self._found.get(run.id) if isinstance(run, Run) and "landscape" not in run.probes else None
        return WithSurface(run, surface) if surface is not None and surface.probes else run


class WithSurface:
    """A recorded run beside a landscape of it that is not finished.

    Args:
        run: The run.
        surface: Holds the table `landscape`.
    """

    def __init__(self, run: Run, surface: LiveRun) -> None:
        self.run, self._surface = run, surface

    def __getattr__(self, name: str) -> Any:
        return getattr(self.run, name)

    @property
    def probes(self) -> list[str]:
        """Names of the tables."""
        return [*self.run.probes, "landscape"]

    def probe(self, name: str) -> Any:
        """Return a table.

        Args:
            name: One of `probes`.
        """
        return self._surface.probe(name) if name == "landscape" else self.run.probe(name)
