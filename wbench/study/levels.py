"""Training arms in the order in which they need each other, and choosing each arm's grid point."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from wbench.errors import RunError, WBenchError
from wbench.recipe import Recipe
from wbench.runs import Run
from wbench.study.arms import Arm, order_of
from wbench.study.progress import Arguments, Outcome
from wbench.task import Task

Key = tuple[str, int, int]  # arm, index of the grid's point, seed
Work = Callable[[Mapping[Any, Arguments], Outcome], Outcome]


@dataclass
class ArmRuns:
    """Runs of arms.

    Attributes:
        outcome: Every run by (arm, index of the grid's point, seed), and what failed.
        chosen: Arm to the index of its grid point that is best on validation data; arms whose runs lack the metric are left out.
        seeds: In order.
    """

    outcome: Outcome = field(default_factory=Outcome)
    chosen: dict[str, int] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=list)

    def at_chosen(self) -> dict[str, list[Run]]:
        """Return the runs of each arm at its chosen point, one a seed; failed ones are left out."""
        runs = self.outcome.runs
        return {
            name: [runs[name, index, seed] for seed in self.seeds if (name, index, seed) in runs]
            for name, index in self.chosen.items()
        }


def run_arms(
    arms: Mapping[str, Arm],
    task: Task,
    recipe: Recipe,
    seeds: Iterable[int],
    work: Work,
    *,
    device: str = "auto",
    every: int | None = None,
    found: ArmRuns | None = None,
) -> ArmRuns:
    """Train (or find) every arm with every seed at every point of its grid.

    Args:
        arms: By name.
        task: What is trained on, where an arm names nothing else.
        recipe: How, before an arm's own changes.
        seeds: Seeds.
        work: Trains or finds runs: `Runner.run`, or something that only looks.
        device: Where to train.
        every: Steps between probe records.
        found: Receives the runs as they come; default a new one.

    Returns:
        The runs.
    """
    found = found if found is not None else ArmRuns()
    found.seeds = list(seeds)
    for level in order_of(arms):
        wanted: dict[Key, Arguments] = {}
        for name in level:
            for index, point in enumerate(arms[name].points()):
                for seed in found.seeds:
                    key = name, index, seed
                    try:
                        wanted[key] = _arguments(arms[name], point, task, recipe, seed, found, device, every)
                    except WBenchError as error:
                        found.outcome.failures[key] = str(error)
        work(wanted, found.outcome)
        for name in level:
            try:
                found.chosen[name] = _choose(arms[name], name, found)
            except RunError as error:
                remedy = "name a metric that is there, as Arm(select=..., select_by=(..., 'min'))"
                found.outcome.notes.append(f"no point of arm '{name}' is chosen: {error}; {remedy}")
    return found


def _arguments(
    arm: Arm,
    point: dict[str, Any],
    task: Task,
    recipe: Recipe,
    seed: int,
    found: ArmRuns,
    device: str,
    every: int | None,
) -> Arguments:
    def needed(name: str) -> Run:
        run = found.outcome.runs.get((name, found.chosen.get(name, -1), seed))
        if run is None:
            raise WBenchError(f"arm '{name}', which it needs, has no run with seed {seed}")
        return run

    methods, own = arm.at(point, recipe)
    return {
        "task": arm.task or task, "methods": methods, "seed": seed, "recipe": own, "device": device,
        "probes": arm.probes, "every": every, "trainable": arm.trainable,
        "start": needed(arm.start) if arm.start else None,
        "references": {role: needed(name) for role, name in arm.references.items()},
        "members": {role: needed(name) for role, name in arm.members.items()},
    }  # fmt: skip


def _choose(arm: Arm, name: str, found: ArmRuns) -> int:
    points = arm.points()
    if len(points) == 1:
        return 0
    metric, best = arm.select_by
    sign = -1.0 if best == "max" else 1.0
    ranked: list[float] = []
    for index in range(len(points)):
        values = [_metric(found.outcome.runs.get((name, index, seed)), arm.select, metric) for seed in found.seeds]
        mean = sign * sum(values) / len(values)
        ranked.append(mean if mean == mean else float("inf"))
    return ranked.index(min(ranked))


def _metric(run: Run | None, split: str, metric: str) -> float:
    if run is None or run.status != "finished":
        return float("nan")
    return run.final(metric, split)
