"""Widgets of the browser: plotly.js once a page, figures, theme and clipboard, a table, a slider over steps. They know of no run, task or method."""

from wbench.workbench.widgets.face import Face
from wbench.workbench.widgets.library import PlotlyLibrary
from wbench.workbench.widgets.steps import StepSlider
from wbench.workbench.widgets.table import RunTable
from wbench.workbench.widgets.view import PlotView, Selection

__all__ = ["Face", "PlotView", "PlotlyLibrary", "RunTable", "Selection", "StepSlider"]
