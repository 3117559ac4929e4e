"""Arms of a claim: a graph of cached runs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Any

from wbench.errors import ClaimError
from wbench.method import Method
from wbench.recipe import Recipe
from wbench.runs import Run, RunStore
from wbench.task import Task
from wbench.training.job import describe, find
from wbench.training.train import train


@dataclass(frozen=True)
class Arm:
    """One side of a comparison: what is trained, from where, how.

    Attributes:
        methods: Put on in this order; none: the plain baseline.
        task: What is trained on, when it differs from the claim's task.
        start: Name of the arm whose trained weights (same seed) it starts from.
        references: Role to arm name: models that methods ask for.
        members: Role to arm name: models that a population method combines.
        recipe: Recipe fields that differ from the claim's recipe.
        at_smoke: Recipe fields that differ further at `smoke` scale, where `recipe` sets a budget of its own.
        trainable: Globs of modules that stay trainable; the rest is frozen.
        grid: Recipe fields (`lr`) or knobs (`galore.rank`) to values; the best point is chosen for the arm as a whole.
        select: Split on which the grid's point is chosen; never `test`.
        select_by: Metric by which it is chosen, and whether `max` or `min` is best.
        probes: Probes recorded in the arm's runs.
    """

    methods: tuple[Method, ...] = ()
    task: Task | None = None
    start: str | None = None
    references: Mapping[str, str] = field(default_factory=dict)
    members: Mapping[str, str] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    at_smoke: Mapping[str, Any] = field(default_factory=dict)
    trainable: str | tuple[str, ...] | None = None
    grid: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    select: str = "valid"
    select_by: tuple[str, str] = ("loss", "min")
    probes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.grid and self.select == "test":
            raise ClaimError("an arm's grid point is chosen on validation data, never on 'test'; set select='valid'")

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the arms that must be trained before."""
        return tuple(
            dict.fromkeys([*([self.start] if self.start else []), *self.references.values(), *self.members.values()])
        )

    def points(self) -> list[dict[str, Any]]:
        """Return every point of the grid, as field to value; one empty point without a grid."""
        return [dict(zip(self.grid, values, strict=True)) for values in itertools.product(*self.grid.values())]

    def at(self, point: Mapping[str, Any], recipe: Recipe) -> tuple[tuple[Method, ...], Recipe]:
        """Return methods and recipe at a point of the grid.

        Args:
            point: Field to value.
            recipe: The claim's recipe.

        Returns:
            Methods with their knobs set, and the arm's recipe.
        """
        changes = dict(self.recipe) | {key: value for key, value in point.items() if "." not in key}
        methods = []
        for method in self.methods:
            knobs = {
                key.partition(".")[2]: v
                for key, v in point.items()
                if key.partition(".")[0] == method.id and "." in key
            }
            methods.append(method.replace(**knobs) if knobs else method)
        return tuple(methods), recipe.replace(**changes) if changes else recipe


def order_of(arms: Mapping[str, Arm]) -> list[list[str]]:
    """Return the arms in levels: each needs only arms of earlier levels.

    Args:
        arms: By name.

    Returns:
        Levels of names.

    Raises:
        ClaimError: If an arm needs one that does not exist, or arms need each other in a circle.
    """
    for name, arm in arms.items():
        for need in arm.needs:
            if need not in arms:
                raise ClaimError(f"arm '{name}' needs arm '{need}', which does not exist; arms: {', '.join(arms)}")
    levels: list[list[str]] = []
    done: set[str] = set()
    while len(done) < len(arms):
        level = [name for name, arm in arms.items() if name not in done and set(arm.needs) <= done]
        if not level:
            raise ClaimError(f"arms need each other in a circle: {', '.join(sorted(set(arms) - done))}")
        levels.append(level)
        done.update(level)
    return levels


Key = tuple[str, int, int]  # arm, index of the grid's point, seed


def run_arms(
    arms: Mapping[str, Arm],
    task: Task,
    recipe: Recipe,
    seeds: Iterable[int],
    store: RunStore,
    *,
    device: str = "auto",
    pool: Callable[[], Executor] | Executor | None = None,
    told: Callable[[int, int], None] | None = None,
    bars: bool = False,
) -> tuple[dict[str, list[Run]], dict[str, dict[str, Any]]]:
    """Train (or find) every arm with every seed, and choose each arm's grid point.

    Args:
        arms: By name.
        task: The claim's task.
        recipe: The claim's recipe.
        seeds: Seeds.
        store: Where runs are kept and found.
        device: Where to train.
        pool: An executor for what is not in the store yet, or what makes one; none: one after another.
        told: Called with (done, total) after each run.
        bars: Show a progress bar over the steps of each run.

    Returns:
        Runs by arm, one a seed and in their order, at the chosen point; and that point by arm.
    """
    seeds = list(seeds)
    total = sum(len(arm.points()) * len(seeds) for arm in arms.values())
    runs: dict[str, list[Run]] = {}
    chosen: dict[str, dict[str, Any]] = {}
    executor: Executor | None = None
    done = 0
    try:
        for level in order_of(arms):
            jobs: dict[Key, dict[str, Any]] = {}
            found: dict[Key, Run] = {}
            for name in level:
                for index, point in enumerate(arms[name].points()):
                    for seed_index, seed in enumerate(seeds):
                        job = _job(arms[name], point, task, recipe, seed, seed_index, runs, device)
                        known = find(describe(**job), store) if job is not None else None
                        if known is not None:
                            found[name, index, seed] = known
                        elif job is not None:
                            jobs[name, index, seed] = job
            done += len(found)
            if told:
                told(done, total)
            if jobs and executor is None and pool is not None:
                executor = pool if isinstance(pool, Executor) else pool()
            waiting: dict[Key, Future[str]] = {}
            for key, job in jobs.items():
                if executor is None:
                    found[key] = train(**job, store=store, progress=bars)
                    done += 1
                    if told:
                        told(done, total)
                else:
                    waiting[key] = executor.submit(train_job, job, str(store.root), bars)
            for key, future in waiting.items():
                found[key] = store.get(future.result())
                done += 1
                if told:
                    told(done, total)
            for name in level:
                point_index = _choose(arms[name], name, seeds, found)
                chosen[name] = arms[name].points()[point_index]
                runs[name] = [found[name, point_index, seed] for seed in seeds if (name, point_index, seed) in found]
    finally:
        if executor is not None and executor is not pool:
            executor.shutdown(wait=True, cancel_futures=True)
    return runs, chosen


def train_job(job: dict[str, Any], root: str, bars: bool = False) -> str:
    """Train one run in a worker.

    Args:
        job: Arguments of `train`; must be picklable.
        root: Folder of the run store.
        bars: Show a progress bar over its steps.

    Returns:
        The run's id.
    """
    return train(**job, store=RunStore(root), progress=bars).id


def _job(
    arm: Arm,
    point: dict[str, Any],
    task: Task,
    recipe: Recipe,
    seed: int,
    seed_index: int,
    runs: dict[str, list[Run]],
    device: str,
) -> dict[str, Any] | None:
    methods, own = arm.at(point, recipe)
    job: dict[str, Any] = {
        "task": arm.task or task, "methods": methods, "seed": seed, "recipe": own, "device": device,
        "probes": arm.probes, "trainable": arm.trainable,
    }  # fmt: skip
    if arm.start:
        start = runs[arm.start][seed_index]
        job["start"] = start
    job["references"] = {role: runs[name][seed_index] for role, name in arm.references.items()}
    job["members"] = {role: runs[name][seed_index] for role, name in arm.members.items()}
    return job


def _choose(arm: Arm, name: str, seeds: list[int], found: dict[Key, Run]) -> int:
    points = arm.points()
    if len(points) == 1:
        return 0
    metric, best = arm.select_by
    means: list[float] = []
    for index in range(len(points)):
        values = [_metric(found[name, index, seed], arm.select, metric) for seed in seeds]
        means.append(sum(values) / len(values))
    sign = -1.0 if best == "max" else 1.0
    ranked = [sign * mean if mean == mean else float("inf") for mean in means]
    return ranked.index(min(ranked))


def _metric(run: Run, split: str, metric: str) -> float:
    if run.status != "finished":
        return float("nan")
    return run.final(metric, split)
