"""The workbench in JupyterLab: controls from knobs, training beside the kernel, panels that follow, runs side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wbench.workbench.workbench import Workbench

__all__ = ["Workbench"]


def __getattr__(name: str) -> Any:
    if name == "Workbench":  # the worker process, which imports this package, needs no widgets
        from wbench.workbench.workbench import Workbench

        return Workbench
    raise AttributeError(f"module 'wbench.workbench' has no attribute '{name}'")
