"""The figures: a fixed set of views, made when first shown and refilled for ever, with one cursor and one legend for all."""

from __future__ import annotations

import html
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import ipywidgets as ipw

from wbench.plots import PALETTE
from wbench.workbench.panels import ALONE, OVERVIEW, Drawn, Look, Panel
from wbench.workbench.shown import Shown
from wbench.workbench.trees import close_tree
from wbench.workbench.widgets import PlotView

TABS = (("Overview", OVERVIEW), *((panel.title, (panel,)) for panel in ALONE))
DASHES = ("solid", "dashed", "dotted", "double")
NARROW = 1250  # pixels below which panels stand one below the other; the same as in the style
TIGHT = 1100  # and those below which only two small figures stand side by side
LARGEST = "the largest few"


class Board:
    """The figures of a workbench.

    Args:
        act: Takes what a control wants done, and sees that it is done on the kernel's own thread.

    Attributes:
        box: What is shown.
        shown: What is on display.
        width: Pixels of the whole workbench.
    """

    def __init__(self, act: Callable[[Callable[[], None]], None]) -> None:
        self._act = act
        self.shown: list[Shown] = []
        self.width = NARROW
        self.fillers: dict[str, Callable[[], Drawn]] = {}
        self.opened: Callable[[str], None] = lambda _: None
        self._views: dict[str, PlotView] = {}
        self._dirty: set[str] = set()
        self._drawn: dict[str, Drawn] = {}
        self._steps: list[int] = [0]
        self._follow = True
        self._tab = 0
        full = {"width": "100%"}
        self.tabs = ipw.ToggleButtons(options=[(title, place) for place, (title, _) in enumerate(TABS)], value=0)
        self.tabs.add_class("wbench-tabs")
        self.tabs.observe(lambda change: self._act(lambda: self._open(change["new"])), "value")
        self.legend = ipw.HTML(layout=full)
        self.steps = ipw.SelectionSlider(options=[("0", 0)], value=0, description="step", layout={"width": "46%"}, continuous_update=True,
                                         tooltip="All panels show this step, or their nearest record before it.")  # fmt: skip
        self.steps.add_class("wbench-steps")
        self.steps.observe(self._scrubbed, "value")
        small = {"width": "34px"}
        self.back, self.forth = (
            ipw.Button(description="‹", tooltip="step before", layout=small),
            ipw.Button(description="›", tooltip="next step", layout=small),
        )
        self.newest = ipw.ToggleButton(
            value=True,
            description="newest",
            tooltip="Stay at the newest step while it trains.",
            layout={"width": "76px"},
        )
        self.back.on_click(lambda _: self._act(lambda: self.move(-1)))
        self.forth.on_click(lambda _: self._act(lambda: self.move(1)))
        self.newest.observe(lambda change: self._act(lambda: self._stay(change["new"])), "value")
        wide = {"width": "auto"}
        self.layer = ipw.Dropdown(
            options=[LARGEST],
            value=LARGEST,
            description="layers",
            style={"description_width": "42px"},
            layout={"width": "210px"},
        )
        self.over = ipw.Dropdown(
            options=[("at the cursor", "cursor"), ("over the steps", "steps")],
            description="weights",
            style={"description_width": "58px"},
            layout={"width": "200px"},
        )
        self.seeds = ipw.Dropdown(
            options=[("interval", "interval"), ("all lines", "lines")],
            description="seeds",
            style={"description_width": "40px"},
            layout={"width": "145px"},
        )
        self.axis = ipw.Dropdown(
            options=["step", "samples"],
            description="x axis",
            style={"description_width": "46px"},
            layout={"width": "150px"},
        )
        self.smooth = ipw.FloatSlider(value=0.0, min=0.0, max=0.99, step=0.01, description="smoothing", readout_format=".2f", style={"description_width": "76px"},
                                      layout={"width": "250px"}, tooltip="Weight of an exponential moving average; 0: the line as recorded.")  # fmt: skip
        self.smooth.add_class("wbench-smooth")
        for control in (self.layer, self.over, self.seeds, self.axis, self.smooth):
            control.observe(lambda _: self._act(self.redraw), "value")
        first = ipw.HBox(
            [self.steps, self.back, self.forth, self.newest], layout={"width": "100%", "flex_flow": "row wrap"}
        )
        second = ipw.HBox(
            [self.layer, self.over, self.seeds, self.axis, self.smooth], layout={"flex_flow": "row wrap", **wide}
        )
        self.area = ipw.Box(layout={"width": "100%"})
        self.area.add_class("wbench-area")
        self.box = ipw.VBox([self.tabs, self.legend, first, second, self.area], layout=full)
        self._open(0)

    # what is on display

    def show(self, shown: Sequence[Shown], tables: Iterable[str] | None = None) -> None:
        """Put configurations on display, or tell that some of their tables have grown.

        Args:
            shown: Configurations.
            tables: Which tables have changed; `None`: all.
        """
        self.shown = list(shown)
        if tables is None:
            self._dirty |= {panel.id for _, panels in TABS for panel in panels}
        else:
            changed = set(tables)
            self._dirty |= {
                panel.id for _, panels in TABS for panel in panels
                if changed & set(panel.tables) or ("method." in panel.tables and any(name.startswith("method.") for name in changed))
            }  # fmt: skip
        self._set_legend()
        self._set_steps()
        self._set_layers()

    def redraw(self) -> None:
        """Draw everything anew, as the user wants to see it otherwise."""
        self._dirty |= {panel.id for _, panels in TABS for panel in panels}

    @property
    def look(self) -> Look:
        """How the user wants to see things."""
        layer = None if self.layer.value == LARGEST else self.layer.value
        return Look(
            self.cursor, layer, float(self.smooth.value), self.seeds.value, self.axis.value, self.over.value,
            2 if self.width >= NARROW or self.width < TIGHT else 3, 3 if self.width >= TIGHT else 2,
        )  # fmt: skip

    @property
    def cursor(self) -> int | None:
        """The step that all panels show; `None`: the newest."""
        return None if self._follow else int(self.steps.value)

    @property
    def pending(self) -> bool:
        """Whether a panel that is on screen has to be drawn."""
        return any(panel.id in self._dirty for panel in self._panels())

    def draw(self, budget: float = 0.25) -> float:
        """Draw panels that are on screen and out of date, one at least, until the time is used up.

        Args:
            budget: Seconds.

        Returns:
            Seconds spent.
        """
        begin, look = time.perf_counter(), self.look
        for panel in self._panels():
            if panel.id not in self._dirty:
                continue
            self._dirty.discard(panel.id)
            view = self._views[panel.id]
            try:
                drawn = self.fillers[panel.id]() if panel.id in self.fillers else panel.draw(self.shown, look)
            except Exception as error:  # a method's own picture is anybody's code: the panel says it and stays usable
                drawn = Drawn(None, f"This panel cannot be drawn: {type(error).__name__}: {error}")
            if drawn.figure is not None and not panel.legend:
                drawn.figure.update_layout(showlegend=False)
            self._drawn[panel.id] = drawn
            view.show(drawn.figure, drawn.caption, revision=f"{panel.id} {look.layer} {look.x} {look.over}")
            view.cursor = None if look.cursor is None else float(look.cursor)
            if time.perf_counter() - begin > budget:
                break
        return time.perf_counter() - begin

    def drawn(self) -> list[tuple[str, Drawn, PlotView]]:
        """Return title, content and view of every panel that has been drawn."""
        titles = {panel.id: panel.title for _, panels in TABS for panel in panels}
        return [
            (titles[name], drawn, self._views[name]) for name, drawn in self._drawn.items() if drawn.figure is not None
        ]

    # the cursor

    def move(self, by: int) -> None:
        """Move the cursor by records.

        Args:
            by: How many, also backwards.
        """
        place = self._steps.index(int(self.steps.value)) if self.steps.value in self._steps else len(self._steps) - 1
        self.set_cursor(self._steps[min(max(place + by, 0), len(self._steps) - 1)])

    def set_cursor(self, step: float) -> None:
        """Put the cursor on the record nearest to a step.

        Args:
            step: A step.
        """
        nearest = min(self._steps, key=lambda known: abs(known - step))
        self._follow = self.newest.value = False
        if self.steps.value == nearest:
            self._cursor_moved()
        self.steps.value = nearest

    def _scrubbed(self, change: dict[str, Any]) -> None:
        if not self._setting:
            self._act(self._let_go)

    def _let_go(self) -> None:
        self._follow = self.newest.value = False
        self._cursor_moved()

    def _stay(self, on: bool) -> None:
        if on != self._follow:
            self._follow = on
            self._set_steps()
            self._cursor_moved()

    def _cursor_moved(self) -> None:
        cursor = self.cursor
        for _, panels in TABS:
            for panel in panels:
                if panel.id in self._views:
                    self._views[panel.id].cursor = None if cursor is None else float(cursor)
                if panel.moves or panel.id in {"curves", "effective_lr"}:
                    self._dirty.add(panel.id)

    # parts

    _setting = False

    def _set_steps(self) -> None:
        steps = {0}
        for item in self.shown:
            for run in item.runs[:1]:
                for table in ("histogram", "spectrum"):
                    if table in run.probes:
                        steps.update(int(step) for step in run.probe(table)["step"].unique())
        found = sorted(steps)
        if found != self._steps or (self._follow and self.steps.value != found[-1]):
            self._setting = True
            try:
                kept = self.steps.value if not self._follow and self.steps.value in steps else found[-1]
                if found != self._steps:
                    self._steps = found
                    self.steps.options = [(f"{step:,}", step) for step in found]
                self.steps.value = kept
            finally:
                self._setting = False

    def _set_layers(self) -> None:
        layers: dict[str, None] = {}
        for item in self.shown:
            for run in item.runs[:1]:
                if "spectrum" in run.probes:
                    layers.update(dict.fromkeys(run.probe("spectrum")["layer"].unique()))
        options = [LARGEST, *layers]
        if list(self.layer.options) != options:
            kept = self.layer.value if self.layer.value in options else LARGEST
            self.layer.options = options
            self.layer.value = kept

    def _set_legend(self) -> None:
        parts = []
        for item in self.shown:
            dash = DASHES[(item.colour // len(PALETTE)) % len(DASHES)]
            colour = PALETTE[item.colour % len(PALETTE)]
            count = f" (n = {len(item.runs)})" if len(item.runs) > 1 else ""
            live = " <em>training</em>" if item.live else ""
            mark = f"<span class='wbench-swatch' style='border-top: 3px {dash} {colour}' aria-hidden='true'></span>"
            parts.append(
                f"<span class='wbench-key' title='{html.escape(item.name, quote=True)}'>{mark}{html.escape(item.name)}{count}{live}</span>"
            )
        self.legend.value = f"<div class='wbench-legend' aria-label='legend'>{''.join(parts)}</div>" if parts else ""

    def _panels(self) -> tuple[Panel, ...]:
        return tuple(panel for panel in TABS[self._tab][1])

    def _open(self, tab: int) -> None:
        self._tab = tab
        for panel in self._panels():
            if panel.id not in self._views:
                view = PlotView(name=panel.title)
                view.add_class("wbench-view")
                if panel.wide:
                    view.add_class("wbench-whole")
                view.csv = lambda name=panel.id: self._csv(name)  # type: ignore[misc]
                view.on_pick(lambda x: self._act(lambda: self.set_cursor(x)))
                self._views[panel.id] = view
                self._dirty.add(panel.id)
        self.area.children = tuple(self._views[panel.id] for panel in self._panels())
        self.area.remove_class("wbench-one")
        if len(self._panels()) == 1:
            self.area.add_class("wbench-one")
        self.opened(self._panels()[0].id)

    def view(self, panel: str) -> PlotView | None:
        """Return a panel's view, once it was opened.

        Args:
            panel: Its id.
        """
        return self._views.get(panel)

    @property
    def tab(self) -> str:
        """The first panel of the open tab."""
        return self._panels()[0].id

    def _csv(self, name: str) -> str:
        frame = self._drawn[name].frame if name in self._drawn else None
        if frame is None:
            return ""
        if name == "curves" and self.smooth.value:
            from wbench.plots.metrics import smoothed

            keys = [key for key in ("run", "seed", "split", "name") if key in frame.columns]
            frame = frame.sort_values("step", kind="stable")
            frame = frame.assign(smoothed=frame.groupby(keys, observed=True)["value"].transform(
                lambda values: smoothed(values.to_numpy(float), float(self.smooth.value))
            ))  # fmt: skip
        return str(frame.to_csv(index=False))

    def close(self) -> None:
        """Free every widget."""
        for view in self._views.values():
            close_tree(view)
        close_tree(self.box)
