"""The controls over the figures: the one cursor, and how things are seen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import ipywidgets as ipw

from wbench.workbench.panels import Look
from wbench.workbench.shown import Shown, table_of

NARROW = 1250  # pixels below which panels stand one below the other; the same as in the style
TIGHT = 1100  # and those below which only two small figures stand side by side
LARGEST = "the largest few"
OVER = [("at the cursor", "cursor"), ("over the steps", "steps")]
SEEDS = [("interval", "interval"), ("all lines", "lines")]


class Toolbar:
    """The controls over the figures.

    Args:
        act: Sees that something is done on the kernel's own thread.
        changed: Called when things are to be seen otherwise.
        moved: Called when the cursor has moved.

    Attributes:
        boxes: What is shown.
        width: Pixels of the whole workbench.
    """

    def __init__(
        self, act: Callable[[Callable[[], None]], None], changed: Callable[[], None], moved: Callable[[], None]
    ) -> None:
        self._act, self._moved = act, moved
        self._steps, self._follow, self._setting = [0], True, False
        self.width = NARROW
        self.steps = ipw.SelectionSlider(
            options=[("0", 0)], value=0, description="step", layout={"width": "46%"}, continuous_update=True,
            tooltip="All panels show this step, or their nearest record before it.",
        )  # fmt: skip
        self.steps.add_class("wbench-steps")
        self.steps.observe(lambda _: None if self._setting else act(self._let_go), "value")
        small = {"width": "34px"}
        self.back = ipw.Button(description="‹", tooltip="step before", layout=small)
        self.forth = ipw.Button(description="›", tooltip="next step", layout=small)
        self.newest = ipw.ToggleButton(
            value=True, description="newest", tooltip="Stay at the newest step while it trains.", layout={"width": "76px"}
        )  # fmt: skip
        self.back.on_click(lambda _: act(lambda: self.move(-1)))
        self.forth.on_click(lambda _: act(lambda: self.move(1)))
        self.newest.observe(lambda change: act(lambda: self._stay(change["new"])), "value")
        self.layer = _menu("layers", [LARGEST], 210, 42)
        self.over, self.seeds = _menu("weights", OVER, 200, 58), _menu("seeds", SEEDS, 145, 40)
        self.axis = _menu("x axis", ["step", "samples"], 150, 46)
        self.smooth = ipw.FloatSlider(
            value=0.0, min=0.0, max=0.99, step=0.01, description="smoothing", readout_format=".2f",
            style={"description_width": "76px"}, layout={"width": "250px"},
            tooltip="Weight of an exponential moving average; 0: the line as recorded.",
        )  # fmt: skip
        self.smooth.add_class("wbench-smooth")
        seen = [self.layer, self.over, self.seeds, self.axis, self.smooth]
        for control in seen:
            control.observe(lambda _: None if self._setting else act(changed), "value")
        row = {"width": "100%", "flex_flow": "row wrap"}
        self.boxes = [
            ipw.HBox([self.steps, self.back, self.forth, self.newest], layout=row),
            ipw.HBox(seen, layout=row),
        ]

    @property
    def look(self) -> Look:
        """How the user wants to see things."""
        roomy = self.width >= TIGHT
        return Look(
            cursor=self.cursor, layer=None if self.layer.value == LARGEST else self.layer.value,
            smooth=float(self.smooth.value), seeds=self.seeds.value, x=self.axis.value, over=self.over.value,
            columns=3 if roomy and self.width < NARROW else 2, whole=3 if roomy else 2,
        )  # fmt: skip

    @property
    def cursor(self) -> int | None:
        """The step that all panels show; `None`: the newest."""
        return None if self._follow else int(self.steps.value)

    def move(self, by: int) -> None:
        """Move the cursor by records.

        Args:
            by: How many, also backwards.
        """
        place = self._steps.index(int(self.steps.value)) + by
        self.set_cursor(self._steps[min(max(place, 0), len(self._steps) - 1)])

    def set_cursor(self, step: float) -> None:
        """Put the cursor on the record nearest to a step.

        Args:
            step: A step.
        """
        self._set(self.steps, min(self._steps, key=lambda known: abs(known - step)))
        self._let_go()

    def offer(self, shown: Sequence[Shown]) -> None:
        """Offer the steps and the layers of which there are records.

        Args:
            shown: What is on display; of each the first run.
        """
        runs = [item.runs[0] for item in shown if item.runs]
        steps, layers = {0}, dict[str, None]()
        for run in runs:
            for table in ("histogram", "spectrum"):
                if table in run.probes:
                    steps.update(map(int, table_of(run, table)["step"].unique()))
            if "spectrum" in run.probes:
                layers.update(dict.fromkeys(table_of(run, "spectrum")["layer"].unique()))
        self._steps = sorted(steps)
        kept = self.steps.value if not self._follow and self.steps.value in steps else self._steps[-1]
        self._set(self.steps, kept, [(f"{step:,}", step) for step in self._steps])
        names = [LARGEST, *layers]
        self._set(self.layer, self.layer.value if self.layer.value in names else LARGEST, names)

    def _set(self, control: Any, value: Any, options: Iterable[Any] | None = None) -> None:
        self._setting = True
        try:
            if options is not None and list(control.options) != list(options):
                control.options = list(options)
            control.value = value
        finally:
            self._setting = False

    def _let_go(self) -> None:
        self._follow = self.newest.value = False
        self._moved()

    def _stay(self, on: bool) -> None:
        if on != self._follow:
            self._follow = on
            if on:
                self._set(self.steps, self._steps[-1])
            self._moved()


def _menu(name: str, options: list[Any], width: int, label: int) -> ipw.Dropdown:
    return ipw.Dropdown(
        options=options, description=name, style={"description_width": f"{label}px"}, layout={"width": f"{width}px"}
    )
