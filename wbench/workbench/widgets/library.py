"""plotly.js, once a page."""

from __future__ import annotations

from functools import cache
from typing import Any

import anywidget
import traitlets

from wbench.workbench.widgets._source import script


@cache
def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return get_plotlyjs()


class PlotlyLibrary(anywidget.AnyWidget):
    """Holds plotly.js for all `PlotView`s of a page; shows nothing.

    Each FigureWidget carries its own 5 MB; here one message brings the library, and views, made before or after it, draw with it.
    It is evaluated once a page, however many of these there are, and leaves `window.Plotly` and RequireJS alone.
    """

    _esm = script("library.js")

    source = traitlets.Unicode(help="plotly.js.").tag(sync=True)

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"layout": {"display": "none"}, **options})

    @traitlets.default("source")
    def _load(self) -> str:
        return _plotly()
