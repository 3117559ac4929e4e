"""Arms that several claims have alike."""

from __future__ import annotations

from wbench.method import Adapter, Method
from wbench.study import Arm
from wbench.task import Task

RATES = {"lr": (3e-3, 1e-2, 3e-2, 1e-1)}


def adapted(method: Adapter, task: Task | None = None) -> Arm:
    """Return an adapter put on the arm `base`, with the head trained beside it, at its best learning rate.

    Args:
        method: The adapter.
        task: What is trained on, when it differs from the claim's task.
    """
    return Arm((method.replace(trainable="head"),), task=task, start="base", grid=RATES)


def transformed(method: Method) -> Arm:
    """Return the arm `base` rewritten by a method, without a step of training.

    Args:
        method: The method.
    """
    return Arm((method,), start="base", recipe={"steps": 0, "warmup": 0})
