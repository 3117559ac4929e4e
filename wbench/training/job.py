"""A run that is described and checked, but not yet trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from wbench.errors import KnobError
from wbench.method import Method, check_composition, get
from wbench.recipe import Recipe
from wbench.runs import Run, RunStore, run_id
from wbench.runs.spec import config_id
from wbench.task import Task
from wbench.tasks import find_task
from wbench.training.device import resolve_device
from wbench.training.identity import run_spec
from wbench.training.members import as_given, identities, identity
from wbench.training.recorder import PROBES
from wbench.training.restore import Start, start_weights

Methods = Method | type[Method] | str | Sequence[Method | type[Method] | str]


def as_methods(methods: Methods | None) -> tuple[Method, ...]:
    """Return methods as a tuple of objects.

    Args:
        methods: One or several: objects, classes or ids.

    Returns:
        The objects, in order.

    Raises:
        UnknownNameError: For an id that does not exist.
        KnobError: For something that is no method.
    """
    if methods is None:
        return ()
    given = [methods] if isinstance(methods, str | type | Method) else list(methods)
    made: list[Method] = []
    for item in given:
        item = get(item) if isinstance(item, str) else item
        item = item() if isinstance(item, type) and issubclass(item, Method) else item
        if not isinstance(item, Method):
            raise KnobError(f"{item!r} is not a method; allowed: a method, its class or its id")
        made.append(item)
    return tuple(made)


@dataclass(frozen=True)
class Job:
    """A run that is described and checked, but not yet trained.

    Attributes:
        task: What is trained on.
        methods: In order.
        recipe: After the methods' advice.
        device: Where.
        every: Steps between probe records.
        start: Weights to start from, or `None`.
        spec: What determines the run; its hash is the run's name.
        seed: Decides data, initial weights and order.
        probes: Which probes are recorded.
        trainable: Globs of modules that stay trainable, or `None` for all.
        references: Models that methods ask for, by role.
        members: Models that a population method combines, by role.
    """

    task: Task
    methods: tuple[Method, ...]
    recipe: Recipe
    device: torch.device
    every: int
    start: Mapping[str, Tensor] | None
    spec: dict[str, Any]
    seed: int = 0
    probes: tuple[str, ...] = PROBES
    trainable: str | tuple[str, ...] | None = None
    references: Mapping[str, Run | nn.Module] = field(default_factory=dict)
    members: Mapping[str, Run | nn.Module] = field(default_factory=dict)

    @cached_property
    def id(self) -> str:
        """Name of the run."""
        return run_id(self.spec)

    @cached_property
    def config(self) -> str:
        """What runs share that differ in their seed alone."""
        return config_id(self.spec)

    @property
    def outside(self) -> bool:
        """Whether the run needs no training loop: a population or estimator method."""
        return any(method.overrides("combine") or method.overrides("estimator") for method in self.methods)


def describe(
    task: Task | str,
    methods: Methods | None = None,
    *,
    seed: int = 0,
    recipe: Recipe | None = None,
    scale: str = "cpu",
    device: str | torch.device = "auto",
    probes: Sequence[str] = PROBES,
    every: int | None = None,
    start: Start | None = None,
    trainable: str | tuple[str, ...] | None = None,
    references: Mapping[str, Run | nn.Module] | None = None,
    members: Mapping[str, Run | nn.Module] | None = None,
) -> Job:
    """Check what `train` is given and name the run, without training.

    Args:
        task: As in `train`.
        methods: As in `train`.
        seed: As in `train`.
        recipe: As in `train`.
        scale: As in `train`.
        device: As in `train`.
        probes: As in `train`.
        every: As in `train`.
        start: As in `train`.
        trainable: As in `train`.
        references: As in `train`.
        members: As in `train`.

    Returns:
        The job.
    """
    task, chosen, place = find_task(task), as_methods(methods), resolve_device(device)
    check_composition(chosen)
    recipe = recipe or task.recipe(scale)
    for method in chosen:
        recipe = method.recipe(recipe)
    every = every or max(1, recipe.total_steps // 20)
    start_id, weights = start_weights(start) if start is not None else (None, None)
    combined = as_given(members)
    spec = run_spec(
        task, chosen, recipe, seed=seed, device=place, probes={"names": list(probes), "every": every if probes else 0},
        start=start_id, references={role: identity(model) for role, model in (references or {}).items()},
    )  # fmt: skip
    spec["trainable"] = trainable
    if combined:
        spec["members"] = [[role, name] for role, name in identities(combined).items()]  # their order counts
    return Job(
        task, chosen, recipe, place, every, weights, spec, seed, tuple(probes), trainable, dict(references or {}),
        combined,
    )  # fmt: skip


def find(job: Job, store: RunStore) -> Run | None:
    """Return the finished (or diverged) run of a job, if the store has it.

    Args:
        job: From `describe`.
        store: Where to look.

    Returns:
        The run, or `None`.
    """
    found = store.find(job.id)
    return found if found is not None and found.status in {"finished", "diverged"} else None
