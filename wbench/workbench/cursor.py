"""The one cursor of all panels: a step of which there are records."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable

import ipywidgets as ipw

LABEL = "step that all panels show"


class Cursor:
    """The one cursor: a slider over the records, one step back and forth, and whether it stays at the newest.

    The slider counts records: steps that are probed lie unevenly, and a slider of one stop, as one made of choices can be, is not moved by
    the browser when it gets more.

    Args:
        act: Sees that something is done on the kernel's own thread.
        moved: Called when the cursor has moved.

    Attributes:
        box: What is shown.
        newest: Whether it stays at the newest record.
        spoken: Called with the words for the step it stands on.
    """

    def __init__(self, act: Callable[[Callable[[], None]], None], moved: Callable[[], None]) -> None:
        self._moved, self._steps, self._wanted, self._follow, self._setting = moved, [0], 0, True, False
        self.spoken: Callable[[str], None] = lambda _: None
        tooltip = "All panels show this step, or their nearest record before it."
        self._slider = ipw.IntSlider(
            value=0, min=0, max=1, description="step", readout=False, disabled=True, tooltip=tooltip,
            style={"description_width": "32px"}, layout={"width": "42%"},
        )  # fmt: skip
        self._slider.add_class("wbench-steps")
        self._slider.observe(lambda _: None if self._setting else act(self._let_go), "value")
        self._said = ipw.HTML("0", layout={"min_width": "52px"})
        self._said.add_class("wbench-step")
        small = {"width": "34px"}
        self._back = ipw.Button(description="‹", tooltip="step before", layout=small)
        self._forth = ipw.Button(description="›", tooltip="next step", layout=small)
        self.newest = ipw.ToggleButton(
            value=True, description="newest", tooltip="Stay at the newest step while it trains.", layout={"width": "76px"}
        )  # fmt: skip
        self._back.on_click(lambda _: act(lambda: self.move(-1)))
        self._forth.on_click(lambda _: act(lambda: self.move(1)))
        self.newest.observe(lambda change: act(lambda: self._stay(change["new"])), "value")
        parts = [self._slider, self._said, self._back, self._forth, self.newest]
        self.box = ipw.HBox(parts, layout={"width": "100%", "flex_flow": "row wrap"})

    @property
    def steps(self) -> list[int]:
        """The steps of which there are records, ascending."""
        return list(self._steps)

    @property
    def at(self) -> int:
        """The step on which the slider stands."""
        return self._steps[min(int(self._slider.value), len(self._steps) - 1)]

    @property
    def step(self) -> int | None:
        """The step that all panels show; `None`: the newest."""
        return None if self._follow else self.at

    def move(self, by: int) -> None:
        """Move by records.

        Args:
            by: How many, also backwards.
        """
        self._put(min(max(int(self._slider.value) + by, 0), len(self._steps) - 1))
        self._let_go()

    def set(self, step: float) -> None:
        """Stand on the record nearest to a step.

        Args:
            step: A step.
        """
        self._put(min(range(len(self._steps)), key=lambda place: abs(self._steps[place] - step)))
        self._let_go()

    def offer(self, steps: Iterable[int]) -> None:
        """Offer the steps of which there are records; it stays where the user put it, or at the nearest before that.

        Args:
            steps: Any order; step 0 is there always.
        """
        self._steps = sorted({0, *steps})
        last = len(self._steps) - 1
        self._put(last if self._follow else max(bisect.bisect_right(self._steps, self._wanted) - 1, 0))

    def _put(self, place: int) -> None:
        self._setting = True
        try:
            with self._slider.hold_sync():
                last = len(self._steps) - 1
                self._slider.max, self._slider.disabled = max(last, 1), last == 0
                self._slider.value = place
        finally:
            self._setting = False
        self._tell()

    def _tell(self) -> None:
        self._said.value = text = f"{self.at:,}"
        self.spoken(text)

    def _let_go(self) -> None:
        self._follow = self.newest.value = False
        self._wanted = self.at
        self._tell()
        self._moved()

    def _stay(self, on: bool) -> None:
        if on != self._follow:
            self._follow = on
            if on:
                self._put(len(self._steps) - 1)
            self._moved()
