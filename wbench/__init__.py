"""wbench: the workbench for weight-space methods.

Usage:
    import wbench as wb

    run = wb.train("digits", wb.methods.WeightCompander())
    run.probe("spectrum")

Everything is loaded when first used, so that importing the package is cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wbench import checkpoints, claims, datasets, method, methods, models, plots, probes, reports, tasks, testing
    from wbench.errors import WBenchError
    from wbench.method import Context, Method, Paper, knob
    from wbench.recipe import Phase, Recipe
    from wbench.runs import Run, RunStore
    from wbench.runs.query import runs
    from wbench.splits import Splits
    from wbench.study import Arm, Study
    from wbench.task import Task
    from wbench.training import Diverged, restore, train, watch  # type: ignore[no-redef]
    from wbench.workbench import Workbench
    from wbench.zoo import Zoo

__version__ = "0.1.0"

_ROOMS = (
    "checkpoints",
    "claims",
    "datasets",
    "method",
    "method",
    "methods",
    "models",
    "plots",
    "probes",
    "reports",
    "runs",
    "tasks",
    "testing",
)
_NAMES = {
    "Arm": "wbench.study",
    "Context": "wbench.method",
    "Diverged": "wbench.training",
    "Method": "wbench.method",
    "Paper": "wbench.method",
    "Phase": "wbench.recipe",
    "Recipe": "wbench.recipe",
    "Run": "wbench.runs",
    "RunStore": "wbench.runs",
    "Splits": "wbench.splits",
    "Study": "wbench.study",
    "Task": "wbench.task",
    "WBenchError": "wbench.errors",
    "Workbench": "wbench.workbench",
    "Zoo": "wbench.zoo",
    "knob": "wbench.method",
    "restore": "wbench.training",
    "train": "wbench.training",
    "watch": "wbench.training",
}

__all__ = [
    "Arm", "Context", "Diverged", "Method", "Paper", "Phase", "Recipe", "Run", "RunStore", "Splits", "Study", "Task", "WBenchError", "Workbench", "Zoo",
    "checkpoints", "claims", "datasets", "knob", "method", "methods", "models", "plots", "probes", "reports", "restore", "runs", "tasks", "testing", "train",
    "watch",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"wbench.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    raise AttributeError(f"module 'wbench' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
