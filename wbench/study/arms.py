"""Arms: one side of a comparison each, and the order in which they need each other."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from wbench.errors import StudyError
from wbench.method import Method
from wbench.recipe import Recipe
from wbench.task import Task


@dataclass(frozen=True)
class Arm:
    """One side of a comparison: what is trained, from where, how.

    Attributes:
        methods: Put on in this order; none: the plain baseline.
        task: What is trained on, when it differs from the study's task.
        start: Name of the arm whose trained weights (same seed) it starts from.
        references: Role to arm name: models that methods ask for.
        members: Role to arm name: models that a population method combines.
        recipe: Recipe fields that differ from the study's recipe.
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
            raise StudyError("an arm's grid point is chosen on validation data, never on 'test'; set select='valid'")

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the arms that must be trained before."""
        return tuple(
            dict.fromkeys([*([self.start] if self.start else []), *self.references.values(), *self.members.values()])
        )

    def points(self) -> list[dict[str, Any]]:
        """Return every point of the grid, as field to value; one empty point without a grid."""
        return [dict(zip(self.grid, values, strict=True)) for values in itertools.product(*self.grid.values())]

    def at_scale(self, scale: str) -> Arm:
        """Return the arm as it is trained at a scale.

        Args:
            scale: `smoke`, `cpu` or `gpu`.
        """
        return replace(self, recipe={**self.recipe, **self.at_smoke}) if scale == "smoke" else self

    def at(self, point: Mapping[str, Any], recipe: Recipe) -> tuple[tuple[Method, ...], Recipe]:
        """Return methods and recipe at a point of the grid.

        Args:
            point: Field to value.
            recipe: The study's recipe.

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
        StudyError: If an arm needs one that does not exist, or arms need each other in a circle.
    """
    for name, arm in arms.items():
        for need in arm.needs:
            if need not in arms:
                raise StudyError(f"arm '{name}' needs arm '{need}', which does not exist; arms: {', '.join(arms)}")
    levels: list[list[str]] = []
    done: set[str] = set()
    while len(done) < len(arms):
        level = [name for name, arm in arms.items() if name not in done and set(arm.needs) <= done]
        if not level:
            raise StudyError(f"arms need each other in a circle: {', '.join(sorted(set(arms) - done))}")
        levels.append(level)
        done.update(level)
    return levels
