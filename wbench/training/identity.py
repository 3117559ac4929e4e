"""What determines a run: the record whose hash is its name."""

from __future__ import annotations

import functools
import hashlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from wbench.method import Method
from wbench.recipe import Recipe
from wbench.task import Task
from wbench.training.compiled import compiled_digest

ROOMS = ("knobs.py", "recipe.py", "splits.py", "task.py", "datasets.py", "method", "models", "ops", "tasks", "training")


@functools.cache
def code_digest() -> str:
    """Return a digest of the code that a run's numbers depend on, apart from the methods' own files."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for room in ROOMS:
        place = root / room
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            digest.update(path.relative_to(root).as_posix().encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


@functools.cache
def class_digest(cls: type) -> str:
    """Return a digest of the file in which a method is written, or of its compiled code where there is no file.

    Args:
        cls: The method's class.
    """
    module = sys.modules.get(cls.__module__)
    file = getattr(module, "__file__", None)
    if file and Path(file).exists():
        return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:12]
    return compiled_digest(cls)


def run_spec(
    task: Task,
    methods: Sequence[Method],
    recipe: Recipe,
    *,
    seed: int,
    device: torch.device,
    probes: Mapping[str, Any],
    start: str | None,
    references: Mapping[str, str],
) -> dict[str, Any]:
    """Return what determines a run, as JSON values.

    Args:
        task: The task.
        methods: The methods, in order.
        recipe: The recipe after the methods' advice.
        seed: The seed.
        device: Its type is part of the record.
        probes: Which probes are recorded, how often.
        start: Identity of the weights it starts from.
        references: Identity of each reference and member model.

    Returns:
        The record.
    """
    return {
        "task": task.fingerprint(),
        "methods": [{"id": m.id, "fields": m.fields(), "code": class_digest(type(m))} for m in methods],
        "recipe": recipe.fields(),
        "seed": seed,
        "device": device.type,
        "probes": dict(probes),
        "start": start,
        "references": dict(references),
        "torch": str(torch.__version__),
        "code": code_digest(),
    }
