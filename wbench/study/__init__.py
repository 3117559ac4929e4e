"""Studies: arms, grids and seeds; one vectorised step, any executor, nothing lost."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wbench.study.arms import Arm, order_of
    from wbench.study.file import read_study
    from wbench.study.levels import ArmRuns, run_arms
    from wbench.study.pool import Processes
    from wbench.study.progress import Outcome, Progress
    from wbench.study.runner import Runner
    from wbench.study.study import Study

_NAMES = {
    "Arm": "arms",
    "ArmRuns": "levels",
    "Outcome": "progress",
    "Processes": "pool",
    "Progress": "progress",
    "Runner": "runner",
    "Study": "study",
    "order_of": "arms",
    "read_study": "file",
    "run_arms": "levels",
}

__all__ = [
    "Arm", "ArmRuns", "Outcome", "Processes", "Progress", "Runner", "Study", "order_of", "read_study", "run_arms",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(importlib.import_module(f"wbench.study.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'wbench.study' has no attribute '{name}'")
