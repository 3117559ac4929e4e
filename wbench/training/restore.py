"""From a run back to a model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from torch import Tensor, nn

from wbench.errors import FitError, KnobError, RunError
from wbench.method import Method, get, registry
from wbench.runs import Run
from wbench.task import Task
from wbench.tasks import find_task

if TYPE_CHECKING:
    from sklearn.base import BaseEstimator

Start = Run | nn.Module | Mapping[str, Tensor] | str | Path


def methods_of(run: Run) -> list[Method]:
    """Return the methods of a run with their settings.

    Args:
        run: A recorded run.

    Raises:
        UnknownNameError: If one is not installed.
    """
    return [rebuild(get(entry["id"]), entry["fields"]) for entry in run.spec["methods"]]


def task_of(run: Run) -> Task:
    """Return the task of a run.

    Args:
        run: A recorded run.

    Raises:
        RunError: If it was a user's own data, which is not stored.
    """
    entry = run.spec["task"]
    if entry["id"] == "user":
        raise RunError(f"run {run.id} was trained on a user's own data; pass task= to restore it")
    return rebuild(type(find_task(entry["id"])), {key: value for key, value in entry.items() if key != "id"})


def rebuild(cls: type[Any], fields: Mapping[str, Any]) -> Any:
    """Build a record from stored JSON values, in which tuples have become lists.

    Args:
        cls: A method, task or recipe class.
        fields: As stored.

    Returns:
        The object.

    Raises:
        KnobError: If this version does not allow them: another one recorded them.
    """
    try:
        return cls.model_validate_json(json.dumps(dict(fields)))
    except ValidationError as error:
        raise KnobError(f"{cls._explain(error)}; another version of wbench has recorded it") from None


def restore(run: Run, *, task: Task | None = None, methods: Sequence[Method] | None = None) -> nn.Module:
    """Return the trained model of a run, in evaluation mode, on the CPU.

    Args:
        run: A recorded run with weights.
        task: Its task, where it was a user's own data.
        methods: Its methods, where they are not in the registry.

    Returns:
        The model, as `finish` left it.

    Raises:
        RunError: If the run kept no weights.
    """
    if methods is None and (fitted := estimator_method(run)):
        raise RunError(
            f"run {run.id} fitted the estimator of {fitted.id}, no network; use wbench.training.restore_estimator(run)"
        )
    task = task or task_of(run)
    model = task.model(int(run.spec["seed"]))
    state = run.tensors("weights")
    methods = methods_of(run) if methods is None else methods
    builders = [method for method in methods if method.overrides("build")]
    if builders:
        model = builders[0].build(task)
    rebuilt = [method for method in methods if method.result == "rebuilt"]
    rebuilt.sort(key=lambda method: method.stage == "transform")  # as they have acted
    if rebuilt:
        for method in rebuilt[:-1]:
            model = method.prepare(model)
            model = model if method.stage == "transform" else method.finish(model)
        return rebuilt[-1].restore(model, state).eval()
    load(model, state, f"run {run.id}")
    return model.eval()


def estimator_method(run: Run) -> Method | None:
    """Return the method of a run that fitted an estimator, or `None` where the run trained a model.

    Args:
        run: A recorded run.
    """
    found = [entry for entry in run.spec["methods"] if entry["id"] in registry()]
    made = [rebuild(get(entry["id"]), entry["fields"]) for entry in found if get(entry["id"]).overrides("estimator")]
    return made[0] if made else None


def restore_estimator(run: Run, method: Method | None = None) -> BaseEstimator:
    """Return the fitted estimator of a run, from the arrays that it has learnt; nothing is unpickled.

    Args:
        run: A recorded run of an estimator.
        method: Its method, where it is not in the registry.

    Returns:
        The estimator; it predicts as the one that was fitted.

    Raises:
        RunError: If the run fitted no estimator, or one that has learnt more than arrays (trees, for instance).
    """
    from wbench.estimators.arrays import load_arrays

    method = method or estimator_method(run)
    if method is None:
        raise RunError(f"run {run.id} ({run.label}) fitted no estimator; wb.restore(run) gives its model")
    if left := run.info.get("estimator", {}).get("not_saved"):
        raise RunError(
            f"run {run.id}: the estimator's {', '.join(left)} are no arrays and were not saved; fit it again"
        )
    return load_arrays(method.estimator(), run.tensors("weights"))


def load(model: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Load weights strictly, or say which names and shapes differ.

    Args:
        model: The model.
        state: Weights by name.
        what: Where they come from, for the message.

    Raises:
        FitError: If a name is missing, surplus, or of another shape.
    """
    own = model.state_dict()
    missing = [name for name in own if name not in state]
    surplus = [name for name in state if name not in own]
    shapes = [
        f"{n}: {tuple(state[n].shape)} instead of {tuple(own[n].shape)}"
        for n in own
        if n in state and state[n].shape != own[n].shape
    ]
    if missing or surplus or shapes:
        parts = [
            f"{title} {', '.join(names[:5])}"
            for title, names in (("missing", missing), ("surplus", surplus), ("shapes", shapes))
            if names
        ]
        raise FitError(f"the weights of {what} do not fit the model {type(model).__name__}: {'; '.join(parts)}")
    model.load_state_dict(dict(state))


def start_weights(start: Start) -> tuple[str, Mapping[str, Tensor]]:
    """Return what a run starts from: a name for the record, and weights.

    Args:
        start: A run, a module, a mapping of weights, or the path of a checkpoint.

    Returns:
        Identity (run id or checksum) and weights by name.

    Raises:
        RunError: If a run did not finish.
    """
    from wbench.splits import tensors_checksum

    if isinstance(start, Run):
        if start.status != "finished":
            raise RunError(f"run {start.id} {start.status} ({start.reason}); it cannot be started from")
        return start.id, start.tensors("weights")
    if isinstance(start, str | Path):
        from wbench.checkpoints import iter_tensors

        state: Mapping[str, Tensor] = dict(iter_tensors(start))
    else:
        state = start.state_dict() if isinstance(start, nn.Module) else start
    return tensors_checksum(state), state
