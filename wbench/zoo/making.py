"""Training a zoo: one base, many fine-tunes, their weights in a folder."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from wbench.errors import CheckpointError, KnobError, RunError, UnknownNameError, closest
from wbench.runs import Run
from wbench.runs.files import snapshot, write_tensors
from wbench.task import Task
from wbench.training.train import train
from wbench.zoo.manifest import BASE, Entry, check_role, digest, write_manifest

if TYPE_CHECKING:
    from wbench.recipe import Recipe
    from wbench.training.job import Methods


def make_zoo(
    members: Mapping[str, Task],
    folder: Path,
    *,
    base: Task | Run | None,
    methods: Methods | None,
    seed: int,
    seeds: Mapping[str, int],
    recipe: Recipe | None,
    base_recipe: Recipe | None,
    trainable: str | tuple[str, ...] | None,
    given: Mapping[str, Any],
) -> None:
    """Train what `Zoo.train` is asked for, and write the folder.

    Args:
        members: As in `Zoo.train`.
        folder: As in `Zoo.train`.
        base: As in `Zoo.train`.
        methods: As in `Zoo.train`.
        seed: As in `Zoo.train`.
        seeds: As in `Zoo.train`.
        recipe: As in `Zoo.train`.
        base_recipe: As in `Zoo.train`.
        trainable: As in `Zoo.train`.
        given: Further arguments of `wbench.train`.

    Raises:
        KnobError: If there is no member, or a role cannot be the name of a file.
        UnknownNameError: If a seed is given for no member.
        CheckpointError: If the folder is not empty or cannot be written.
    """
    if not members:
        raise KnobError("a zoo needs members: {role: task, ...}")
    for role in members:
        check_role(role)
    for role in seeds:
        if role not in members:
            raise UnknownNameError(f"seeds: there is no member '{role}'.{closest(role, members)}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(f"{folder} is not empty; allowed: a new or an empty folder")
    start, entry, weights = _base(base, next(iter(members.values())), seed, base_recipe, given)
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        entries = {}
        for role, task in members.items():
            run = _finished(
                f"member '{role}'",
                train(
                    task, methods, seed=seeds.get(role, seed), recipe=recipe, start=start, trainable=trainable, **given
                ),
            )
            entries[role] = _written(scratch, role, run.tensors("weights"), _known(run))
        write_manifest(scratch, _written(scratch, BASE, weights, entry), entries)
        from wbench.zoo.zoo import Zoo

        Zoo.open(scratch, model=next(iter(members.values())).model(seed))  # refuses weights that do not fit the base
        scratch.chmod(0o755)
        os.replace(scratch, folder)
    except OSError as error:
        raise CheckpointError(
            f"{folder} cannot be written: {error.strerror or error}; choose another folder"
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _base(
    base: Task | Run | None, first: Task, seed: int, recipe: Recipe | None, given: Mapping[str, Any]
) -> tuple[Run | nn.Module, dict[str, Any], Mapping[str, Tensor]]:
    # what the members start from, what is known of it, its weights
    if base is None:
        model = first.model(seed)
        return model, {"task": first.fingerprint(), "seed": seed}, model.state_dict()
    run = base if isinstance(base, Run) else train(base, seed=seed, recipe=recipe, **given)
    run = _finished("the base", run)
    return run, _known(run), run.tensors("weights")


def _finished(who: str, run: Run) -> Run:
    if run.status != "finished":
        raise RunError(f"{who}: run {run.id} {run.status} ({run.reason}); change its recipe, e.g. a lower rate")
    return run


def _known(run: Run) -> dict[str, Any]:
    metrics = {key.removeprefix("test."): value for key, value in run.summary.items() if key.startswith("test.")}
    known = {
        "task": dict(run.spec["task"]),
        "seed": run.seed,
        "methods": run.methods,
        "metrics": metrics,
        "run": run.id,
    }
    return known


def _written(folder: Path, role: str, weights: Mapping[str, Tensor], known: Mapping[str, Any]) -> Entry:
    path = folder / f"{role}.safetensors"
    write_tensors(path, snapshot({name: torch.as_tensor(tensor) for name, tensor in weights.items()}))
    return Entry(path.name, digest(path), **known)
