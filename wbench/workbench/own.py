"""What a workbench is about: a task of the registry, or the user's own model and data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wbench.errors import KnobError
from wbench.task import Task
from wbench.tasks import find_task

NAME = "your own"


def chosen_task(task: Task | str | None, model: Any, data: Any) -> Task:
    """Return the task.

    Args:
        task: A task or its name; `None`, without model and data: `digits`.
        model: A module, or a function that makes one.
        data: `(x, y)`, `{"train": (x, y), "test": (x, y)}`, or a loader of batches.

    Returns:
        The task.

    Raises:
        KnobError: If both are given, or one of model and data is missing.
    """
    if model is None and data is None:
        return find_task(task if task is not None else "digits")
    if task is not None:
        raise KnobError("give either task=, or model= and data= of your own, not both")
    if model is None or data is None:
        missing = "data=(x, y) or a loader" if data is None else "model= (a module, or a function that makes one)"
        raise KnobError(f"your own model needs its data and the other way round; missing: {missing}")
    if isinstance(data, tuple | list) and len(data) == 2:
        return Task.from_arrays(data[0], data[1], model=model, name=NAME)
    if isinstance(data, Mapping):
        if set(data) != {"train", "test"}:
            raise KnobError(
                f"data has {', '.join(map(repr, data))}; allowed: a mapping with 'train' and 'test', each (x, y)"
            )
        return Task.from_arrays(*data["train"], test=data["test"], model=model, name=NAME)
    return Task.from_loader(data, model=model, name=NAME)
