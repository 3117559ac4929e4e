"""The one cursor of all panels: a step of which there are records."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable

import ipywidgets as ipw

from wbench.workbench.widgets import StepSlider


class Cursor:
    """The one cursor: a slider over the records, one step back and forth, and whether it stays at the newest.

    Args:
        act: Sees that something is done on the kernel's own thread.
        moved: Called when the cursor has moved.

    Attributes:
        box: What is shown.
        newest: Whether it stays at the newest record.
    """

    def __init__(self, act: Callable[[Callable[[], None]], None], moved: Callable[[], None]) -> None:
        self._moved, self._wanted, self._follow, self._setting = moved, 0, True, False
        self._slider = StepSlider(name="step", hint="step that all panels show, or their nearest record before it")
        self._slider.observe(lambda _: None if self._setting else act(self._let_go), "place")
        small = {"width": "34px"}
        self._back = ipw.Button(description="‹", tooltip="step before", layout=small)
        self._forth = ipw.Button(description="›", tooltip="next step", layout=small)
        self.newest = ipw.ToggleButton(
            value=True, description="newest", tooltip="Stay at the newest step while it trains.", layout={"width": "76px"}
        )  # fmt: skip
        self._back.on_click(lambda _: act(lambda: self.move(-1)))
        self._forth.on_click(lambda _: act(lambda: self.move(1)))
        self.newest.observe(lambda change: act(lambda: self._stay(change["new"])), "value")
        parts = [self._slider, self._back, self._forth, self.newest]
        self.box = ipw.HBox(parts, layout={"width": "100%", "flex_flow": "row wrap"})

    @property
    def steps(self) -> list[int]:
        """The steps of which there are records, ascending."""
        return list(self._slider.steps)

    @property
    def at(self) -> int:
        """The step on which the slider stands."""
        return self.steps[min(self._slider.place, self._last)]

    @property
    def step(self) -> int | None:
        """The step that all panels show; `None`: the newest."""
        return None if self._follow else self.at

    def move(self, by: int) -> None:
        """Move by records.

        Args:
            by: How many, also backwards.
        """
        self._put(min(max(self._slider.place + by, 0), self._last))
        self._let_go()

    def set(self, step: float) -> None:
        """Stand on the record nearest to a step.

        Args:
            step: A step.
        """
        steps = self.steps
        self._put(min(range(len(steps)), key=lambda place: abs(steps[place] - step)))
        self._let_go()

    def offer(self, steps: Iterable[int]) -> None:
        """Offer the steps of which there are records; it stays where the user put it, or at the nearest before that.

        Args:
            steps: Any order; step 0 is there always.
        """
        known = sorted({0, *steps})
        self._put(len(known) - 1 if self._follow else max(bisect.bisect_right(known, self._wanted) - 1, 0), known)

    @property
    def _last(self) -> int:
        return len(self._slider.steps) - 1

    def _put(self, place: int, steps: list[int] | None = None) -> None:
        self._setting = True
        try:
            with self._slider.hold_sync():
                if steps is not None:
                    self._slider.steps = steps
                self._slider.place = place
        finally:
            self._setting = False

    def _let_go(self) -> None:
        self._follow = self.newest.value = False
        self._wanted = self.at
        self._moved()

    def _stay(self, on: bool) -> None:
        if on != self._follow:
            self._follow = on
            if on:
                self._put(self._last)
            self._moved()
