"""The frame of the panel: what stands where, the buttons that start and stop, and what is said."""

from __future__ import annotations

import html
from collections.abc import Mapping

import ipywidgets as ipw

from wbench.workbench.style import STYLE
from wbench.workbench.widgets import Face, PlotlyLibrary

FIXED = {
    "wbench-smooth": {"label": "smoothing: weight of the moving average"},
}


class Frame:
    """The frame of a workbench.

    Args:
        setup: Controls, on the left.
        board: Figures, on the right.
        listing: Runs, below.
        actions: What is done with them, at the bottom.

    Attributes:
        box: The whole panel.
        run: Starts training.
        stop: Stops it.
        eager: Whether to train whenever a slider rests.
        status: What was said last.
        face: Theme, width, clipboard.
    """

    def __init__(self, setup: ipw.Widget, board: ipw.Widget, listing: ipw.Widget, actions: ipw.Widget) -> None:
        self.face, self.library = Face(), PlotlyLibrary()
        self.run = ipw.Button(
            description="Run", button_style="primary", tooltip="Train what the controls say.", icon="play"
        )
        self.stop = ipw.Button(
            description="Stop", tooltip="Stop; what was trained so far is kept.", icon="stop", disabled=True
        )
        self.eager = ipw.Checkbox(
            value=False, description="run when a slider rests", indent=False, layout={"width": "auto"}
        )
        self._bar = ipw.FloatProgress(
            value=0.0, min=0.0, max=1.0, layout={"width": "calc(100% - 8px)", "display": "none"}
        )
        self.status = ipw.HTML()
        self.status.add_class("wbench-status")
        buttons = ipw.HBox([self.run, self.stop], layout={"width": "100%"})
        left = ipw.VBox([buttons, self.eager, self._bar, self.status, setup], layout={"width": "320px"})
        left.add_class("wbench-left")
        right = ipw.VBox([board], layout={"flex": "1 1 0%", "min_width": "0"})
        right.add_class("wbench-right")
        top = ipw.HBox([left, right], layout={"width": "100%", "align_items": "flex-start"})
        parts = [ipw.HTML(STYLE), self.face, self.library, top, listing, actions]
        self.box = ipw.VBox(parts, layout={"width": "100%"})
        self.box.add_class("wbench-workbench")

    def progress(self, share: float | None) -> None:
        """Show how far training has come.

        Args:
            share: In [0, 1]; `None`: nothing trains.
        """
        self._bar.layout.display = "none" if share is None else None
        self._bar.value = share or 0.0

    def name_sliders(self, spoken: Mapping[str, Mapping[str, str]]) -> None:
        """Give the handles of sliders accessible names and values.

        Args:
            spoken: Class to label and valuetext.
        """
        self.face.names = {**spoken, **FIXED}

    def say(self, text: str, *, wrong: bool = False, more: str = "") -> None:
        """Show a message above the controls.

        Args:
            text: The message.
            wrong: Whether something went wrong.
            more: Details, folded away.
        """
        kind, role = ("wbench-error", "alert") if wrong else ("wbench-said", "status")
        details = f"<details><summary>where</summary><pre>{html.escape(more)}</pre></details>" if more else ""
        self.status.value = f"<div class='{kind}' role='{role}'>{html.escape(text)}</div>{details}"
