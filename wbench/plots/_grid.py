"""A grid of panels whose layout is put together as plain values and checked by plotly once, or, for a page that draws at once, never."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from wbench.plots._style import AXIS, TITLE, look, shape_of, spaces, tail, text

if TYPE_CHECKING:
    import plotly.graph_objects as go

TICKS = {"x": 4, "y": 5}  # at most, in small panels: labels are a third of what a browser has to do for a panel
_PLAIN: ContextVar[bool] = ContextVar("plain", default=False)


class Values:
    """A figure as plain values, in the words of plotly's JSON; `plotly.graph_objects.Figure(values.data, values.layout)` is the same.

    Args:
        data: Traces.
        layout: Layout.
    """

    def __init__(self, data: Iterable[Any], layout: dict[str, Any]) -> None:
        self.layout, self.frames = layout, ()
        self.data: list[dict[str, Any]] = []
        self.add_traces(data)

    def add_traces(self, traces: Iterable[Any]) -> None:
        """Put traces on top.

        Args:
            traces: Plain or plotly's.
        """
        self.data += [trace if isinstance(trace, dict) else trace.to_plotly_json() for trace in traces]

    def update_layout(self, **settings: Any) -> None:
        """Set parts of the layout.

        Args:
            **settings: As plain values.
        """
        self.layout.update(settings)


@contextmanager
def plain(wanted: bool = True) -> Iterator[None]:
    """Let `Grid.figure` give `Values`, which leaves out plotly's objects and checks: about half of a small figure's time.

    Args:
        wanted: Or let it give plotly's figures again.
    """
    token = _PLAIN.set(wanted)
    try:
        yield
    finally:
        _PLAIN.reset(token)


class Grid:
    """A figure in the making: small panels, looking as those of `panels`.

    Args:
        titles: One a panel.
        columns: At most so many side by side.
        room: Characters of a title; default: as many as fit where the figure has the whole width of a page.

    Attributes:
        rows: Rows of panels.
        layout: What plotly will get.
    """

    def __init__(self, titles: Sequence[str], *, columns: int = 3, room: int | None = None) -> None:
        self.width, self.rows = shape_of(len(titles), columns)
        self.layout: dict[str, Any] = {"annotations": []}
        across, down = spaces(self.width, self.rows)
        wide, high = (1 - across * (self.width - 1)) / self.width, (1 - down * (self.rows - 1)) / self.rows
        few = {name: {"nticks": count} if self.width > 1 else {} for name, count in TICKS.items()}
        for place, title in enumerate(titles):
            row, column = divmod(place, self.width)
            left, top = column * (wide + across), 1 - row * (high + down)
            end = str(place + 1) if place else ""
            self.layout[f"xaxis{end}"] = {
                **AXIS,
                **few["x"],
                "domain": [left, min(1.0, left + wide)],
                "anchor": f"y{end}",
            }
            self.layout[f"yaxis{end}"] = {
                **AXIS,
                **few["y"],
                "domain": [max(0.0, top - high), top],
                "anchor": f"x{end}",
            }
            self.layout["annotations"].append({
                "text": text(tail(str(title), room or TITLE[self.width])), "x": left + wide / 2, "y": top, "xref": "paper", "yref": "paper",
                "xanchor": "center", "yanchor": "bottom", "showarrow": False, "font": {"size": 13}, "hovertext": text(title),
            })  # fmt: skip

    def column(self, place: int) -> int:
        """Return the column of a panel, from 0.

        Args:
            place: The panel, from 0.
        """
        return place % self.width

    def axis(self, name: str, place: int, title: str = "", **settings: Any) -> None:
        """Set an axis of a panel.

        Args:
            name: `x` or `y`.
            place: The panel, from 0.
            title: Shown beside it.
            **settings: Of a plotly axis.
        """
        standoff = {"standoff": 8} if name == "y" else {}
        self.layout[f"{name}axis{place + 1 if place else ''}"].update({
            "title": {"text": title, **standoff},
            **settings,
        })

    def figure(self, traces: Iterable[Any], *, height: int, title: str = "", legend: bool = True) -> go.Figure:
        """Return the figure; `Values` where `plain` says so.

        Args:
            traces: Each with its axes set.
            height: Pixels.
            title: Shown above.
            legend: Whether it has one.
        """
        whole = {**look(height, title, legend), **self.layout}
        if _PLAIN.get():
            return Values(traces, whole)  # type: ignore[return-value]
        import plotly.graph_objects as go

        return go.Figure(data=list(traces), layout=whole)


def line(**settings: Any) -> dict[str, Any]:
    """Return a scatter trace as plain values: plotly checks it once, with the figure.

    Args:
        **settings: Of a plotly scatter trace.
    """
    return {"type": "scatter", **settings}
