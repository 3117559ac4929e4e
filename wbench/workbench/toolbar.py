"""The controls over the figures: the one cursor, and how things are seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets as ipw

from wbench.workbench.cursor import Cursor
from wbench.workbench.panels import Look
from wbench.workbench.shown import Shown, recorded, table_of

NARROW = 1250  # pixels below which panels stand one below the other; the same as in the style
TIGHT = 1100  # and those below which only two small figures stand side by side
LARGEST = "the largest few"
OVER = [("at the cursor", "cursor"), ("at the cursor, log density", "log"), ("over the steps", "steps")]
SEEDS = [("interval", "interval"), ("all lines", "lines")]


class Toolbar:
    """The controls over the figures.

    Args:
        act: Sees that something is done on the kernel's own thread.
        changed: Called when things are to be seen otherwise.
        moved: Called when the cursor has moved.

    Attributes:
        boxes: What is shown.
        cursor: The one cursor of all panels.
        width: Pixels of the whole workbench.
    """

    def __init__(
        self, act: Callable[[Callable[[], None]], None], changed: Callable[[], None], moved: Callable[[], None]
    ) -> None:
        self.cursor, self._setting = Cursor(act, moved), False
        self.width = NARROW
        self.layer = _menu("layers", [LARGEST], 190, 42)
        self.over, self.seeds = _menu("weights", OVER, 254, 52), _menu("seeds", SEEDS, 140, 40)
        self.axis = _menu("x axis", ["step", "samples"], 135, 46)
        self.smooth = ipw.FloatSlider(
            value=0.0, min=0.0, max=0.99, step=0.01, description="smoothing", readout_format=".2f",
            style={"description_width": "76px"}, layout={"width": "240px"},
            tooltip="Weight of an exponential moving average; 0: the line as recorded.",
        )  # fmt: skip
        self.smooth.add_class("wbench-smooth")
        seen = [self.layer, self.over, self.seeds, self.axis, self.smooth]
        for control in seen:
            control.observe(lambda _: None if self._setting else act(changed), "value")
        row = {"width": "100%", "flex_flow": "row wrap"}
        self.boxes = [self.cursor.box, ipw.HBox(seen, layout=row)]

    @property
    def look(self) -> Look:
        """How the user wants to see things."""
        roomy = self.width >= TIGHT
        return Look(
            cursor=self.cursor.step, layer=None if self.layer.value == LARGEST else self.layer.value,
            smooth=float(self.smooth.value), seeds=self.seeds.value, x=self.axis.value, over=self.over.value,
            columns=3 if roomy and self.width < NARROW else 2, whole=3 if roomy else 2,
        )  # fmt: skip

    def offer(self, shown: Sequence[Shown]) -> None:
        """Offer the steps and the layers of which there are records.

        Args:
            shown: What is on display; of each the first run.
        """
        steps, layers = set[int](), dict[str, None]()
        for run in (item.runs[0] for item in shown if item.runs):
            steps.update(recorded(run))
            if "spectrum" in run.probes:
                layers.update(dict.fromkeys(table_of(run, "spectrum")["layer"].unique()))
        self.cursor.offer(steps)
        names = [LARGEST, *layers]
        if list(self.layer.options) != names:
            kept = self.layer.value if self.layer.value in names else LARGEST
            self._setting = True
            try:
                self.layer.options, self.layer.value = names, kept
            finally:
                self._setting = False


def _menu(name: str, options: list[Any], width: int, label: int) -> ipw.Dropdown:
    return ipw.Dropdown(
        options=options, description=name, style={"description_width": f"{label}px"}, layout={"width": f"{width}px"}
    )
