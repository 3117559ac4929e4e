"""A paper's statement as an experiment, and what came of it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from wbench.claims.verdict import Check, Verdict, judge
from wbench.errors import ClaimError
from wbench.recipe import Recipe
from wbench.runs import Run, RunStore
from wbench.study import Arm, ArmRuns, Runner, run_arms
from wbench.study.runner import Pool
from wbench.study.show import bar
from wbench.task import Task

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

Measured = Mapping[str, "float | np.ndarray"]
Measure = Callable[[str, Run, Mapping[str, Run]], Measured]


def final_metrics(arm: str, run: Run, runs: Mapping[str, Run]) -> Measured:
    """Return a run's metrics on the test split: the default of `Claim.measure`.

    Args:
        arm: The arm's name.
        run: Its run.
        runs: The runs of all arms with the same seed.

    Returns:
        Metric to value.
    """
    found = {key.removeprefix("test."): value for key, value in run.summary.items() if key.startswith("test.")}
    return {name: float("nan") if value is None else value for name, value in found.items()}


@dataclass(frozen=True)
class Claim:
    """The paper's statement as an experiment: arms, checks, a control that must fail.

    Attributes:
        id: The method's id.
        statement: What the paper says, in one or two sentences.
        paper_result: The paper's own figures, as cited.
        task: What is trained on.
        recipes: Recipe per scale.
        arms: By name.
        method: Name of the arm under test.
        control: Name of the arm with the mechanism off; judged by the same checks, it must not come out reproduced.
        checks: Fixed before the seeds of record are run.
        seeds: Number of seeds per scale.
        measure: `(arm, run, runs of the seed) -> {metric: value or per-item values}`.
        reads: How to read the outcome at this scale: what it does not show.
        picture: `module:function` of a figure made from the table of `ClaimResult.picture_frame`; empty: none.
    """

    id: str
    statement: str
    paper_result: str
    task: Task
    recipes: Mapping[str, Recipe]
    arms: Mapping[str, Arm]
    method: str
    control: str
    checks: tuple[Check, ...]
    seeds: Mapping[str, int] = field(default_factory=lambda: {"smoke": 2, "cpu": 8, "gpu": 8})
    measure: Measure = final_metrics
    reads: str = ""
    picture: str = ""

    def __post_init__(self) -> None:
        for role, name in (("method", self.method), ("control", self.control)):
            if name not in self.arms:
                raise ClaimError(
                    f"claim {self.id}: the {role} arm '{name}' does not exist; arms: {', '.join(self.arms)}"
                )
        if self.method == self.control:
            raise ClaimError(
                f"claim {self.id}: the control must be another arm than the method's, both are '{self.method}'"
            )

    def run(
        self,
        scale: str = "cpu",
        *,
        seeds: int | Sequence[int] | None = None,
        store: RunStore | None = None,
        workers: int | None = None,
        executor: Pool | None = None,
        device: str = "auto",
        progress: bool = False,
    ) -> ClaimResult:
        """Train what is not in the store, measure, judge.

        Args:
            scale: `smoke`, `cpu` or `gpu`.
            seeds: How many (0, 1, ...), or which; default: the claim's number for the scale.
            store: Where runs are kept.
            workers: Processes; default one a core; 1: in this process.
            executor: Any `concurrent.futures` executor instead (left open), or a function that makes one (closed at the end).
            device: Where to train.
            progress: Show a progress bar on standard error.

        Returns:
            The result with its verdict.

        Raises:
            ClaimError: If the scale or the seeds are not allowed, or a run failed; what has finished is kept.
        """
        if scale not in self.recipes:
            raise ClaimError(f"claim {self.id}: scale='{scale}' is not allowed; allowed: {', '.join(self.recipes)}")
        chosen = self.seeds[scale] if seeds is None else seeds
        numbers = list(range(chosen)) if isinstance(chosen, int) else list(chosen)
        if not numbers or any(number < 0 for number in numbers) or len(set(numbers)) < len(numbers):
            raise ClaimError(
                f"claim {self.id}: seeds={chosen} is not allowed; allowed: a positive number, or distinct seeds >= 0"
            )
        store, begin = store or RunStore(), time.perf_counter()
        arms = {name: arm.at_scale(scale) for name, arm in self.arms.items()}
        total = sum(len(arm.points()) for arm in arms.values()) * len(numbers)
        with (
            bar(progress, self.id) as told,
            Runner(store, executor=executor, workers=workers, total=total, told=told) as runner,
        ):
            found = run_arms(arms, self.task, self.recipes[scale], numbers, runner.run, device=device)
        self._complete(found)
        runs = found.at_chosen()
        points = {name: arms[name].points()[index] for name, index in found.chosen.items()}
        values = self._values(runs, numbers)
        verdict = judge(values, self.checks, method=self.method, control=self.control)
        return ClaimResult(self, scale, numbers, values, verdict, runs, points, time.perf_counter() - begin)

    def _complete(self, found: ArmRuns) -> None:
        if found.outcome.failures:
            (arm, _, seed), reason = next(iter(found.outcome.failures.items()))
            raise ClaimError(
                f"claim {self.id}: {len(found.outcome.failures)} run(s) failed, the first of arm '{arm}' with seed {seed}: {reason}"
            )

        missing = [name for name in self.arms if name not in found.chosen]
        if missing:
            raise ClaimError(f"claim {self.id}: {'; '.join(found.outcome.notes) or f'no run of arm {missing[0]}'}")

    def _values(self, runs: Mapping[str, list[Run]], seeds: list[int]) -> dict[str, dict[str, np.ndarray]]:
        import numpy as np

        values: dict[str, dict[str, np.ndarray]] = {}
        for arm, arm_runs in runs.items():
            rows: list[Measured] = []
            for index, run in enumerate(arm_runs):
                same_seed = {name: others[index] for name, others in runs.items()}
                rows.append(self.measure(arm, run, same_seed) if run.status == "finished" else {})
            names = dict.fromkeys(name for row in rows for name in row)
            values[arm] = {name: np.asarray([row.get(name, np.nan) for row in rows], dtype=float) for name in names}
        return values


@dataclass(frozen=True)
class ClaimResult:
    """What came of a claim.

    Attributes:
        claim: The claim.
        scale: At which scale.
        seeds: With which seeds.
        values: Arm to metric to an array of shape (seeds,) or (seeds, items).
        verdict: The judgement with every check.
        runs: Arm to runs, one a seed.
        points: Arm to the chosen grid point.
        seconds: Wall time, little when the runs were found.
    """

    claim: Claim
    scale: str
    seeds: list[int]
    values: dict[str, dict[str, np.ndarray]]
    verdict: Verdict
    runs: dict[str, list[Run]]
    points: dict[str, dict[str, Any]]
    seconds: float

    def frame(self) -> pd.DataFrame:
        """Return every seed's values: columns arm, seed, metric, value (per-item values as their mean)."""
        import pandas as pd

        rows = [
            {"arm": arm, "seed": seed, "metric": name, "value": float(array[index].mean())}
            for arm, metrics in self.values.items()
            for name, array in metrics.items()
            for index, seed in enumerate(self.seeds)
        ]
        return pd.DataFrame(rows, columns=["arm", "seed", "metric", "value"])

    def edges(self) -> dict[str, list[str]]:
        """Return the arms whose chosen value is the smallest or largest of its grid, and of which settings: they may be under-tuned."""
        found = {}
        for arm, point in self.points.items():
            grid = self.claim.arms[arm].grid
            at_end = [
                key for key, value in point.items() if len(grid[key]) > 1 and value in {min(grid[key]), max(grid[key])}
            ]
            if at_end:
                found[arm] = at_end
        return found

    def picture_frame(self) -> pd.DataFrame:
        """Return what the arms' runs recorded, for the claim's picture: columns arm, seed, table, and those of the tables."""
        import pandas as pd

        frames = []
        for arm, runs in self.runs.items():
            for run in runs:
                for name in ("metrics", *(probe for probe in run.probes if probe != "items")):
                    frame = run.metrics if name == "metrics" else run.probe(name)
                    frames.append(frame.assign(arm=arm, seed=run.seed, table=name))
        return pd.concat(frames, ignore_index=True)

    def to_json(self) -> str:
        """Return claim, verdict, checks, values and run ids as JSON."""
        frame = self.frame()
        record = {
            "claim": self.claim.id,
            "statement": self.claim.statement,
            "scale": self.scale,
            "seeds": self.seeds,
            "seconds": round(self.seconds, 3),
            "verdict": json.loads(self.verdict.to_json()),
            "points": self.points,
            "at_the_edge_of_the_grid": self.edges(),
            "runs": {arm: [run.id for run in runs] for arm, runs in self.runs.items()},
            "values": frame.where(frame.notna(), None).to_dict("records"),
        }
        return json.dumps(record, indent=1, default=str)

    def _repr_html_(self) -> str:
        return str(self.verdict.frame().to_html(escape=True, index=False, float_format="{:.4g}".format))
