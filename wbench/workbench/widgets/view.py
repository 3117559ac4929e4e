"""Any plotly figure, drawn in the page with the shared library."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import anywidget
import traitlets

from wbench.plots._style import CONFIG
from wbench.workbench.widgets._source import script, style
from wbench.workbench.widgets.figure import as_json

if TYPE_CHECKING:
    import plotly.graph_objects as go

Selection = list[Any] | dict[str, list[list[float]]]


class PlotView(anywidget.AnyWidget):
    """A panel with a name, a sentence, a figure and buttons that save it; needs a `PlotlyLibrary` on the page.

    A figure is sent once as text and drawn in the colours of the page's theme, the newest only where they come faster than they can be
    drawn, and none while the panel is off screen. `layout.meta["step_axes"]` names the x axes (`"x"`, `"x2"`, ...) that count steps: there
    the cursor is drawn and a click picks a step.

        view = PlotView(name="loss")
        view.show(figure, "Training loss falls to 0.21.", revision="run-1")
        view.cursor = 300
    """

    _esm = script("view.js")
    _css = style("view.css")

    name = traitlets.Unicode(help="Heading, accessible name and file name.").tag(sync=True)
    caption = traitlets.Unicode(help="One sentence under the heading.").tag(sync=True)
    height = traitlets.Int(0, help="Pixels; 0: as the figure says.").tag(sync=True)
    figure = traitlets.Unicode(help="The figure as JSON; empty: none.").tag(sync=True)
    revision = traitlets.Unicode(help="While it stays, so do zoom and hidden lines.").tag(sync=True)
    stays = traitlets.Bool(False, help="Whether the figure may come back: its drawing waits for that.").tag(sync=True)
    cursor = traitlets.Float(None, allow_none=True, help="Where step axes have a line.").tag(sync=True)
    config = traitlets.Dict(help="plotly.js's configuration.").tag(sync=True)
    has_csv = traitlets.Bool(False).tag(sync=True)
    visible = traitlets.Bool(False, help="Whether a browser has it on screen.").tag(sync=True)
    png = traitlets.Unicode(help="Data URL; arrives after `snapshot()`.").tag(sync=True)

    def __init__(self, name: str = "", caption: str = "", height: int = 0, **options: Any) -> None:
        self._csv: Callable[[], str] | None = None
        self._pickers: list[Callable[[float], None]] = []
        self._selectors: list[Callable[[Selection], None]] = []
        super().__init__(name=name, caption=caption, height=height, **options)
        self.on_msg(self._receive)

    @traitlets.default("config")
    def _config(self) -> dict[str, Any]:
        return {**CONFIG, "displayModeBar": False, "responsive": False, "showAxisDragHandles": False}

    @property
    def csv(self) -> Callable[[], str] | None:
        """What gives the figure's frame as CSV when it is asked for; `None`: no such button."""
        return self._csv

    @csv.setter
    def csv(self, give: Callable[[], str] | None) -> None:
        self._csv = give
        self.has_csv = give is not None

    def show(self, figure: go.Figure | None, caption: str = "", revision: str = "", stays: bool = False) -> None:
        """Draw a figure; where nothing changed nothing is sent.

        Args:
            figure: Any, with frames and sliders if it has them; `None` clears the panel.
            caption: One sentence with the numbers.
            revision: While it stays the same, zoom and hidden legend entries are kept.
            stays: Whether the figure may come back: the browser keeps its drawing then and does not draw it again.
        """
        text = "" if figure is None else as_json(figure)
        with self.hold_sync():
            self.figure, self.caption, self.revision, self.stays = text, caption, revision, stays

    def on_pick(self, callback: Callable[[float], None]) -> None:
        """Call a function with x when a point over a step axis is clicked.

        Args:
            callback: Takes x.
        """
        self._pickers.append(callback)

    def on_select(self, callback: Callable[[Selection], None]) -> None:
        """Call a function when points are selected or an axis of parallel coordinates is brushed.

        Args:
            callback: Takes the points' customdata; or, of parallel coordinates, each brushed axis's label with its [low, high] ranges.
        """
        self._selectors.append(callback)

    def snapshot(self, scale: float = 2.0) -> None:
        """Ask the browser for the figure as PNG, in print colours on white; it arrives in `png`.

        Args:
            scale: Pixels of the image for a pixel of the page.
        """
        self.png = ""
        self.send({"kind": "snapshot", "scale": scale})

    def _receive(self, _widget: object, message: dict[str, Any], _buffers: object) -> None:
        if message.get("kind") == "pick":
            for pick in self._pickers:
                pick(float(message["x"]))
        elif message.get("kind") == "select":
            for select in self._selectors:
                select(message["selection"])
        elif message.get("kind") == "csv":
            self.send({"kind": "csv", "asked": message["asked"], **self._table()})

    def _table(self) -> dict[str, str]:
        if self._csv is None:
            return {"problem": "There are no numbers to save."}
        try:
            return {"text": self._csv()}
        except Exception as error:  # shown in the panel, which stays usable
            return {"problem": f"The numbers could not be read: {error}"}
