"""A study: arms, a grid of settings, and seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from wbench.errors import StudyError, WBenchError, closest
from wbench.recipe import Recipe
from wbench.runs import Run, RunStore
from wbench.study.arms import Arm
from wbench.study.levels import ArmRuns, Work, run_arms
from wbench.study.progress import Arguments, Outcome, Told
from wbench.study.runner import Pool, Runner, Vectorize
from wbench.task import Task
from wbench.tasks import find_task
from wbench.training.job import Methods, as_methods, describe
from wbench.training.recorder import PROBES

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Study:
    """Arms times grid times seeds, on one task.

    Usage:
        `study = Study("digits", {"plain": None, "wc": WeightCompander()}, {"lr": [1e-3, 3e-3]}, seeds=8)`, then
        `study.run()` and `study.frame()`; starting it again continues where it was, whatever ended it.

    Attributes:
        task: A task or its name.
        arms: Name to methods, or to an `Arm` with a start, references or a grid of its own; none: the baseline alone.
        grid: Recipe fields (`lr`) or knobs (`galore.rank`) to values; a knob concerns the arms that have its method. Arms that
            others start from are not swept.
        seeds: How many (0, 1, ...), or which.
        recipe: How to train; default: the task's at `scale`.
        scale: `smoke`, `cpu` or `gpu`.
        probes: Probes that are recorded.
        every: Steps between probe records; default: only the start, the first step and the end.
        device: Where to train.
        store: Where runs are kept; default as `train`.

    Raises:
        StudyError: If an arm, a field of the grid or the seeds are not allowed.
    """

    task: Task | str
    arms: Mapping[str, Arm | Methods | None] = field(default_factory=lambda: {"baseline": None})
    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    seeds: int | Sequence[int] = 8
    recipe: Recipe | None = None
    scale: str = "cpu"
    probes: tuple[str, ...] = PROBES
    every: int | None = None
    device: str = "auto"
    store: RunStore | None = None

    def __post_init__(self) -> None:
        if not self.arms:
            raise StudyError("a study needs at least one arm; arms={'baseline': None} is the task's model alone")
        find_task(self.task)
        numbers = self.numbers
        if not numbers or any(number < 0 for number in numbers) or len(set(numbers)) < len(numbers):
            raise StudyError(f"seeds={self.seeds} is not allowed; allowed: a positive number, or distinct seeds >= 0")
        for key, values in self.grid.items():
            if isinstance(values, str) or not len(values):
                raise StudyError(f"grid: {key}={values!r} is not allowed; allowed: one or more values")
            if len({repr(value) for value in values}) < len(values):
                raise StudyError(f"grid: {key}={list(values)} names a value twice")
        self.plan()

    @property
    def numbers(self) -> list[int]:
        """The seeds."""
        return list(range(self.seeds)) if isinstance(self.seeds, int) else list(self.seeds)

    def plan(self) -> dict[str, Arm]:
        """Return the arms as they are trained: each with the part of the grid that concerns it.

        Returns:
            Arms by name.

        Raises:
            StudyError: If a field of the grid concerns no arm; names the closest.
        """
        recipe = self._recipe()
        arms: dict[str, Arm] = {}
        for name, given in self.arms.items():
            arm = given if isinstance(given, Arm) else Arm(as_methods(given), probes=tuple(self.probes))
            arms[name] = arm.at_scale(self.scale)
        needed = {need for arm in arms.values() for need in arm.needs}
        settable = dict.fromkeys(recipe.fields())
        known = [*settable, *(f"{m.id}.{key}" for arm in arms.values() for m in arm.methods for key in m.fields())]
        for key in self.grid:
            if key not in known:
                raise StudyError(f"grid: no arm has '{key}'.{closest(key, known)}")
        for name, arm in arms.items():
            own = {f"{method.id}.{key}" for method in arm.methods for key in method.fields()} | set(settable)
            swept = {} if name in needed else {key: tuple(v) for key, v in self.grid.items() if key in own}
            arms[name] = replace(arm, grid={**arm.grid, **swept})
            for point in arms[name].points():
                arms[name].at(point, recipe)  # values out of range are refused here, by name
        return arms

    def run(
        self,
        executor: Pool | None = None,
        *,
        workers: int | None = None,
        vectorize: Vectorize = "auto",
        time_limit: float | None = None,
        memory: float | None = None,
        progress: bool = False,
        told: Told | None = None,
    ) -> Outcome:
        """Train what the store does not have. Runs are kept one by one: `frame` shows them meanwhile, from anywhere.

        Args:
            executor: Any `concurrent.futures` executor (left open), or a function that makes one; default processes.
            workers: How many processes; default one a core or GPU; 1: this process.
            vectorize: Train runs that differ in numbers only in one vectorised step (they agree with `train` to rounding): `auto` where it
                gains, `always` where it can be done, `never`.
            time_limit: Seconds that one run may take.
            memory: GiB that one worker may take.
            progress: Show a bar with the remaining time on standard error.
            told: Is told of the progress.

        Returns:
            Runs by (arm, index of the grid's point, seed), what failed and why, and what was remarkable.

        Raises:
            KeyboardInterrupt: Passed on; what is finished is kept, and starting again continues.
        """
        from wbench.study.show import bar

        store, arms = self.store or RunStore(), self.plan()
        store.check_writable()
        store.sweep()
        total = sum(len(arm.points()) for arm in arms.values()) * len(self.numbers)
        with (
            bar(progress, "study", told) as tell,
            Runner(
                store, executor=executor, workers=workers, vectorize=vectorize, time_limit=time_limit, memory=memory,
                total=total, told=tell,
            ) as runner,
        ):  # fmt: skip
            return self.walk(runner.run).outcome

    def look(self) -> ArmRuns:
        """Return the runs that the store has, without training."""
        store = self.store or RunStore()

        def work(wanted: Mapping[Any, Arguments], outcome: Outcome) -> Outcome:
            ids: dict[Any, str] = {}
            for key, arguments in wanted.items():
                try:
                    ids[key] = describe(**arguments).id
                except WBenchError as error:
                    outcome.failures[key] = str(error)
            known = store.finished(ids.values())
            outcome.runs.update({key: known[name] for key, name in ids.items() if name in known})
            for key, name in ids.items():
                run = None if name in known else store.find(name)
                if run is not None:
                    outcome.failures[key] = run.reason or run.status
            return outcome

        return self.walk(work)

    def walk(self, work: Work) -> ArmRuns:
        """Hand over what `train` needs for every run, arms that others start from first.

        Args:
            work: Trains or finds runs: `Runner.run`, or something that only looks or counts.

        Returns:
            What it found.
        """
        arms, recipe = self.plan(), self._recipe()
        every = self.every or max(step_count(arm, recipe) for arm in arms.values())
        task = find_task(self.task)
        return run_arms(arms, task, recipe, self.numbers, work, device=self.device, every=every)

    def frame(self) -> pd.DataFrame:
        """Return one row a run, also of those that are not there yet.

        Returns:
            Columns arm, one a field of the grids, seed, status (`finished`, `diverged`, `failed` or `missing`), reason, run (id),
            seconds, and final metrics as `metric.<split>.<name>`.
        """
        import pandas as pd

        arms, found = self.plan(), self.look()
        rows = []
        for name, arm in arms.items():
            for index, point in enumerate(arm.points()):
                for seed in self.numbers:
                    key = name, index, seed
                    run = found.outcome.runs.get(key)
                    rows.append({"arm": name, **point, "seed": seed, **_outcome(run, found.outcome.failures.get(key))})
        first = ["arm", *dict.fromkeys(key for arm in arms.values() for key in arm.grid), "seed"]
        first += ["status", "reason", "run", "seconds"]
        return pd.DataFrame(rows, columns=list(dict.fromkeys([*first, *(key for row in rows for key in row)])))

    def table(self, name: str) -> pd.DataFrame:
        """Return what the runs have recorded under one name, joined.

        Args:
            name: `metrics`, or a probe: `spectrum`, `histogram`, `effective_lr`, `method.<id>`, `items`.

        Returns:
            The table's columns after arm, the grid's fields, seed and run; one that is named like a field of the grid becomes
            `<table>.<name>`. Runs without that table are left out.
        """
        import pandas as pd

        arms, found = self.plan(), self.look()
        frames = []
        for (arm, index, seed), run in found.outcome.runs.items():
            if name != "metrics" and name not in run.probes:
                continue
            frame = run.metrics if name == "metrics" else run.probe(name)
            point = arms[arm].points()[index]
            labels = pd.DataFrame([{"arm": arm, **point, "seed": seed, "run": run.id}] * len(frame), index=frame.index)
            own = frame.rename(columns={key: f"{name}.{key}" for key in labels.columns if key in frame.columns})
            frames.append(pd.concat([labels, own], axis=1))
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame({"arm": [], "seed": [], "run": []})

    def _recipe(self) -> Recipe:
        return self.recipe or find_task(self.task).recipe(self.scale)


def step_count(arm: Arm, recipe: Recipe) -> int:
    """Return the most steps that a run of an arm takes.

    Args:
        arm: The arm.
        recipe: The study's recipe.
    """
    return max(arm.at(point, recipe)[1].total_steps for point in arm.points())


def _outcome(run: Run | None, failure: str | None) -> dict[str, Any]:
    if run is None:
        return {"status": "missing" if failure is None else "failed", "reason": failure or ""}
    timings = run.info.get("timings")
    seconds = timings.get("seconds") if isinstance(timings, dict) else None
    known = {"status": run.status, "reason": run.reason, "run": run.id, "seconds": seconds}
    return known | {f"metric.{name}": value for name, value in run.summary.items()}
