"""The workbench in JupyterLab: controls from knobs, training beside the kernel, panels that follow, runs side by side."""

from wbench.workbench.workbench import Workbench

__all__ = ["Workbench"]
