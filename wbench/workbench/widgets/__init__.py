"""Widgets of the browser: plotly.js once a page, figures, theme and clipboard, a table. They know of no run, task or method."""

from wbench.workbench.widgets.library import PlotlyLibrary
from wbench.workbench.widgets.view import PlotView

__all__ = ["PlotView", "PlotlyLibrary"]
