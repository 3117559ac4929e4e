"""The figures: a fixed set of views, made when first shown and refilled for ever, with one cursor and one legend for all."""

from __future__ import annotations

import html
import math
import time
from collections.abc import Callable, Iterable, Sequence

import ipywidgets as ipw

from wbench.plots import PALETTE
from wbench.plots._grid import plain
from wbench.workbench.panels import ALONE, OVERVIEW, Drawn, Look, Panel
from wbench.workbench.shown import Shown
from wbench.workbench.toolbar import Toolbar
from wbench.workbench.trees import close_tree
from wbench.workbench.widgets import PlotView
from wbench.workbench.widgets._source import colours
from wbench.workbench.widgets.view import Selection

TABS = (("Overview", OVERVIEW), *((panel.title, (panel,)) for panel in ALONE))
PANELS = tuple(panel for _, panels in TABS for panel in panels)
DASHES = ("solid", "dashed", "dotted", "double")


class Board:
    """The figures of a workbench.

    Args:
        act: Takes what a control wants done, and sees that it is done on the kernel's own thread.

    Attributes:
        box: What is shown.
        shown: What is on display.
        toolbar: The controls over the figures.
        fillers: Panel to what draws it, for those that need more than what is on display.
        opened: Called with the first panel of a tab that was opened.
        scrubbed: Called when the cursor has moved.
        picked: Called with a panel and what was selected in its figure.
    """

    def __init__(self, act: Callable[[Callable[[], None]], None]) -> None:
        self._act = act
        self.shown: list[Shown] = []
        self.fillers: dict[str, Callable[[], Drawn]] = {}
        self.opened: Callable[[str], None] = lambda _: None
        self.scrubbed: Callable[[], None] = lambda: None
        self.picked: Callable[[str, Selection], None] = lambda _panel, _selection: None
        self._views: dict[str, PlotView] = {}
        self._dirty: set[str] = set()
        self._drawn: dict[str, Drawn] = {}
        self._tab, self._unoffered = 0, False
        self.toolbar = Toolbar(act, self.redraw, self._moved)
        self.tabs = ipw.ToggleButtons(options=[(title, place) for place, (title, _) in enumerate(TABS)], value=0)
        self.tabs.add_class("wbench-tabs")
        self.tabs.observe(lambda change: act(lambda: self._open(change["new"])), "value")
        full = {"width": "100%"}
        self.legend, self.area = ipw.HTML(layout=full), ipw.Box(layout=full)
        self.area.add_class("wbench-area")
        self.box = ipw.VBox([self.tabs, self.legend, *self.toolbar.boxes, self.area], layout=full)
        self._open(0)

    def show(self, shown: Sequence[Shown], tables: Iterable[str] | None = None) -> None:
        """Put configurations on display, or tell that some of their tables have grown.

        Args:
            shown: Configurations.
            tables: Which tables have changed; `None`: all.
        """
        self.shown = list(shown)
        self._dirty |= {panel.id for panel in PANELS if tables is None or panel.draws(tables)}
        self._unoffered = True
        if self.cursor is not None:  # it may have to go to another step before anything is drawn
            self._offer()

    def redraw(self) -> None:
        """Draw everything anew, as the user wants to see it otherwise."""
        self._dirty |= {panel.id for panel in PANELS}

    @property
    def cursor(self) -> int | None:
        """The step that all panels show; `None`: the newest."""
        return self.toolbar.cursor.step

    @property
    def pending(self) -> bool:
        """Whether a panel that is on screen has to be drawn."""
        return any(panel.id in self._dirty for panel in self._on_screen())

    def draw(self, budget: float = math.inf) -> float:
        """Draw panels that are on screen and out of date, one at least, until the time is used up.

        Args:
            budget: Seconds.

        Returns:
            Seconds spent.
        """
        begin, look, made = time.perf_counter(), self.toolbar.look, []
        for panel in self._on_screen():
            if panel.id not in self._dirty:
                continue
            self._dirty.discard(panel.id)
            made.append((panel, self._make(panel, look)))
            if time.perf_counter() - begin > budget:
                break
        self._set_legend()
        for panel, drawn in made:  # one after another: the browser draws in one frame what arrives together
            view = self._views[panel.id]
            revision = f"{panel.id} {look.layer} {look.x} {look.over}"
            view.show(drawn.figure, drawn.caption, revision, stays=not any(item.live for item in self.shown))
            view.cursor = None if look.cursor is None else float(look.cursor)
        if self._unoffered:
            self._act(self._offer)  # while the browser draws: it reads tables for the steps
        return time.perf_counter() - begin

    def _offer(self) -> None:
        self._unoffered = False
        self.toolbar.offer(self.shown)

    def _make(self, panel: Panel, look: Look) -> Drawn:
        try:
            with plain():
                drawn = self.fillers[panel.id]() if panel.id in self.fillers else panel.draw(self.shown, look)
        except Exception as error:  # a method's own picture is anybody's code: the panel says it and stays usable
            drawn = Drawn(None, f"This panel cannot be drawn: {type(error).__name__}: {error}")
        if drawn.figure is not None and not panel.legend:
            drawn.figure.update_layout(showlegend=False)
        self._drawn[panel.id] = drawn
        return drawn

    def drawn(self) -> list[tuple[str, Drawn, PlotView]]:
        """Return title, content and view of every panel that has been drawn."""
        titles = {panel.id: panel.title for panel in PANELS}
        return [
            (titles[name], drawn, self._views[name]) for name, drawn in self._drawn.items() if drawn.figure is not None
        ]

    def _set_legend(self) -> None:
        parts = []
        for item in self.shown:
            dash = DASHES[(item.colour // len(PALETTE)) % len(DASHES)]
            light, dark = (_shade(theme, item.colour) for theme in ("light", "dark"))
            count = f" (n = {len(item.runs)})" if len(item.runs) > 1 else ""
            live = " <em>training</em>" if item.live else ""
            mark = f"<span class='wbench-swatch' style='--light: {light}; --dark: {dark}; border-top-style: {dash}' aria-hidden='true'></span>"
            parts.append(
                f"<span class='wbench-key' title='{html.escape(item.name, quote=True)}'>{mark}{html.escape(item.name)}{count}{live}</span>"
            )
        self.legend.value = f"<div class='wbench-legend' aria-label='legend'>{''.join(parts)}</div>" if parts else ""

    def _moved(self) -> None:
        cursor = self.cursor
        for view in self._views.values():
            view.cursor = None if cursor is None else float(cursor)
        self._dirty |= {panel.id for panel in PANELS if panel.moves}
        self.scrubbed()

    def _panels(self) -> tuple[Panel, ...]:
        return TABS[self._tab][1]

    def _on_screen(self) -> list[Panel]:
        # of the open tab; where no browser says what it shows, all of them
        panels = [panel for panel in self._panels() if self._views[panel.id].visible]
        return panels or list(self._panels())

    def _open(self, tab: int) -> None:
        self._tab = tab
        for panel in self._panels():
            if panel.id not in self._views:
                view = PlotView(name=panel.title)
                view.add_class("wbench-view")
                if panel.wide:
                    view.add_class("wbench-whole")
                view.csv = lambda name=panel.id: self._csv(name)  # type: ignore[misc]
                view.observe(lambda _: self._act(lambda: None), "visible")
                view.on_pick(lambda x: self._act(lambda: self.toolbar.cursor.set(x)))
                view.on_select(lambda picked, name=panel.id: self._act(lambda: self.picked(name, picked)))  # type: ignore[misc]
                self._views[panel.id] = view
                self._dirty.add(panel.id)
        self.area.children = tuple(self._views[panel.id] for panel in self._panels())
        self.area.remove_class("wbench-one")
        if len(self._panels()) == 1:
            self.area.add_class("wbench-one")
        self.opened(self._panels()[0].id)

    @property
    def tab(self) -> str:
        """The first panel of the open tab."""
        return self._panels()[0].id

    def _csv(self, name: str) -> str:
        frame = self._drawn[name].frame if name in self._drawn else None
        if frame is None:
            return ""
        if name == "curves" and self.toolbar.smooth.value:
            from wbench.plots.metrics import smoothed

            keys = [key for key in ("run", "seed", "split", "name") if key in frame.columns]
            frame = frame.sort_values("step", kind="stable")
            frame = frame.assign(smoothed=frame.groupby(keys, observed=True)["value"].transform(
                lambda values: smoothed(values.to_numpy(float), float(self.toolbar.smooth.value))
            ))  # fmt: skip
        return str(frame.to_csv(index=False))

    def close(self) -> None:
        """Free every widget."""
        for view in self._views.values():
            close_tree(view)
        close_tree(self.box)


def _shade(theme: str, number: int) -> str:
    colour = PALETTE[number % len(PALETTE)]
    return str(colours()[theme]["map"].get(colour, colour))
