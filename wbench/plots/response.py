"""How quantities answer to knobs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from wbench.errors import DataError
from wbench.plots._axes import log_axis
from wbench.plots._response import DODGE, Axis, Group, axis_of, groups_of, label_of, mean_of, slice_of, title_of
from wbench.plots._style import (
    GREY,
    INK,
    MAX_PANELS,
    TITLE,
    colour_of,
    empty,
    layout,
    marker_of,
    panels,
    require,
    style_of,
    text,
)

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

MAX_QUANTITIES = 30
LINE = 32  # characters
MAX_REASONS = 4  # told on hovering
LOG_FROM = 30.0  # ratio of largest to smallest value from which an axis is logarithmic
KNOWN = {"arm", "seed", "status", "reason", "chosen", "run", "seconds"}


def response(frame: pd.DataFrame, knobs: Sequence[str], quantities: Sequence[str] = ()) -> go.Figure:
    """Draw quantities over the values of knobs, a panel a knob, a line an arm; a menu switches the quantity.

    A light point is a seed, the line their mean, the bar its 95 % interval (Student's t over the seeds; one seed has none). An
    arm without the knob is a level line with its interval as a band. In the panel of a knob the arm's other knobs stand at its
    chosen point, which has a ring; the panel's title names them. Runs that did not finish are crosses at the upper edge and take
    no part in the numbers. The axis follows the seeds' own values: a wide interval of few seeds is cut off.

    Args:
        frame: One row a run. Columns arm, seed, status (`finished`, or what else became of it), the knobs (missing where an arm has
            no such knob), the quantities; `reason` (of a run that did not finish) and `chosen` (whether it is of its arm's chosen
            point; needed where an arm has several knobs) when there.
        knobs: Columns of knobs; at most six are drawn.
        quantities: Columns of quantities, at most thirty are offered; default: every other column of numbers.

    Returns:
        A figure.

    Raises:
        DataError: If a column is missing, no knob is named, or an arm with several knobs has no chosen point.
    """
    if not knobs:
        raise DataError("plots.response: knobs=() is not allowed; allowed: one or more columns of the table")
    require(frame, ("arm", "seed", "status", *knobs, *quantities), "response")
    others = [str(name) for name in frame.select_dtypes("number").columns if name not in {*KNOWN, *knobs}]
    offered = list(quantities) or others
    if frame.empty or not offered:
        return empty("response")
    finished = (frame["status"] == "finished").to_numpy()
    numbers = {name: np.where(finished, frame[name].to_numpy(float), np.nan) for name in offered}
    found = [name for name in offered if np.isfinite(numbers[name]).any()] or offered[:1]
    shown, drawn = found[:MAX_QUANTITIES], list(knobs)[:MAX_PANELS]
    table = frame.reset_index(drop=True)
    table = table.assign(**{knob: [label_of(value) for value in table[knob]] for knob in knobs})
    arms = {str(arm): place for place, arm in enumerate(dict.fromkeys(table["arm"]))}
    parts = {knob: {arm: slice_of(table, arm, knob, knobs) for arm in arms} for knob in drawn}

    titles = [title_of(parts[knob], knob, knobs) for knob in drawn]
    columns = 2 if all(len(title) <= TITLE[2] for title in titles) else 1
    columns = min(columns, len(drawn))
    specs = [[{"secondary_y": True}] * columns for _ in range(-(-len(drawn) // columns))]
    figure, places, rows = panels(titles, columns=columns, specs=specs)
    traces: list[_Trace] = []
    for place, (knob, (row, column)) in enumerate(zip(drawn, places, strict=True)):
        axis, sides = axis_of(frame[knob]), _sides(parts[knob], knob)
        figure.update_xaxes(title_text=text(knob), **axis.settings, row=row, col=column)
        for arm, index in arms.items():
            groups = groups_of(parts[knob][arm], knob, axis, sides[arm])
            for kind in ("interval", "seeds", "mean"):
                trace = _Trace(kind, arm, index, knob, groups, axis, place)
                traces.append(trace)
                figure.add_trace(trace.draw(numbers[shown[0]], shown[0]), row=row, col=column)
        figure.add_trace(_crosses(parts[knob], arms, knob, axis, sides), row=row, col=column, secondary_y=True)
    _tell_failed(figure, finished, {row for some in parts.values() for part in some.values() for row in part.index})
    notes = [
        f"{len(some)} of {len(every)} {what}; {what}=(...) chooses others"
        for what, some, every in (("knobs", drawn, knobs), ("quantities", shown, found))
        if len(some) < len(every)
    ]
    layout(figure, height=150 + 330 * rows, title="; ".join(notes))
    for place in range(len(drawn)):  # crosses stand at the same height whatever the quantity
        edge = {"overlaying": _y(place).replace("axis", ""), "range": [0, 1], "visible": False, "fixedrange": True}
        figure.update_layout({f"yaxis{2 * place + 2}": edge})
    _add_menu(figure, traces, {name: numbers[name] for name in shown}, columns)
    return figure.update_layout(margin={"t": 125 if notes else 95}, hovermode="closest")


@dataclass(frozen=True)
class _Trace:
    """What of an arm in a panel changes with the quantity: its `seeds`, their `mean` or its `interval`."""

    kind: str
    arm: str
    index: int
    knob: str
    groups: list[Group]
    axis: Axis
    place: int

    @property
    def level(self) -> bool:
        return not self.groups[0].label

    def draw(self, values: np.ndarray, quantity: str) -> go.Scatter:
        import plotly.graph_objects as go

        style, marker = style_of(self.index), marker_of(self.index)
        look: dict[str, Any] = {"legendgroup": self.arm, "meta": "response", "showlegend": False, "hoverinfo": "text"}
        xs, ends = [group.x for group in self.groups], [self.axis.at(0), self.axis.at(1)]
        if self.kind == "seeds":
            x: list[Any] = [] if self.level else [group.beside for group in self.groups for _ in group.rows]
            look |= {"x": x, "mode": "markers", "marker": {**marker, "opacity": 0.45, "size": 6}}
        elif self.kind == "mean" and self.level:
            look |= {"x": ends, "mode": "lines", "line": {**style, "dash": "dash"}}
        elif self.kind == "mean":
            size = [12 if group.chosen else 8 for group in self.groups]
            ring = [2 if group.chosen else 0 for group in self.groups]
            marks = {**marker, "size": size, "line": {"color": INK, "width": ring}}
            look |= {"x": xs, "mode": "lines+markers", "marker": marks, "line": style, "connectgaps": False}
        elif self.level:
            fill = {"fill": "toself", "fillcolor": colour_of(self.index, 0.15), "line": {"width": 0}}
            look |= {"x": [*ends, *ends[::-1]], "mode": "lines", **fill, "hoverinfo": "skip"}
        else:
            x = [part for place in xs for part in (place, place, None)]
            look |= {"x": x, "mode": "lines", "line": {"color": style["color"], "width": 1.5}, "hoverinfo": "skip"}
        if self.kind == "mean":
            look |= {"name": text(self.arm), "showlegend": self.place == 0}
        return go.Scatter(**look, **self.data(values, quantity))

    def data(self, values: np.ndarray, quantity: str) -> dict[str, list[Any]]:
        """Return what changes with the quantity: y and the words on hovering."""
        if self.kind == "seeds":
            pairs = [] if self.level else [(group, row) for group in self.groups for row in group.rows]
            said = [f"{self._where(group)}<br>{text(quantity)} of one seed: {values[row]:.4g}" for group, row in pairs]
            return {"y": [_plain(values[row]) for _, row in pairs], "hovertext": said}
        stats = [mean_of(values[group.rows]) for group in self.groups]
        if self.kind == "mean":
            said = [self._said(group, *stat, quantity) for group, stat in zip(self.groups, stats, strict=True)]
            times = 2 if self.level else 1
            return {"y": [_plain(mean) for mean, _, _ in stats] * times, "hovertext": said * times}
        positive = values[np.isfinite(values)].min(initial=math.inf)
        floor = positive / 1000 if positive > 0 else -math.inf  # the axis may be logarithmic
        bounds = [(_plain(max(mean - reach, floor)), _plain(mean + reach)) for mean, reach, _ in stats]
        bounds = [(None, None) if high is None else (low, high) for low, high in bounds]
        y = [end for low, high in bounds for end in ((low, low, high, high) if self.level else (low, high, None))]
        return {"y": y, "hovertext": [""] * len(y)}

    def _where(self, group: Group) -> str:
        return _where(self.arm, self.knob, group)

    def _said(self, group: Group, mean: float, reach: float, count: int, quantity: str) -> str:
        interval = f"± {reach:.2g}, 95 % interval over {count} seeds" if count > 1 else "one seed: no interval"
        lines = [self._where(group), f"{text(quantity)}: {mean:.4g} ({interval})"]
        if count < len(group.rows):
            lines.append(f"{len(group.rows) - count} of {len(group.rows)} runs have no such number")
        return "<br>".join([*lines, "the arm's chosen point"] if group.chosen else lines)


def _where(arm: str, knob: str, group: Group) -> str:
    return f"{text(arm)}, {text(knob)} = {text(group.label)}" if group.label else text(arm)


def _in_lines(name: str) -> str:
    # the title of an axis stands upright: what is longer than a panel is high goes into two lines
    head, sign, tail = name.partition(" of ") if len(name) > LINE else (name, "", "")
    return (
        f"{text(head)}{sign.rstrip()}<br>{text(tail if len(tail) <= LINE else f'…{tail[1 - LINE :]}')}"
        if tail
        else text(head)
    )


def _plain(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _y(place: int) -> str:
    return f"yaxis{2 * place + 1}" if place else "yaxis"


def _sides(parts: dict[str, pd.DataFrame], knob: str) -> dict[str, float]:
    """Return by which share of the axis each arm's points are moved, so that arms do not hide each other."""
    having = [arm for arm, part in parts.items() if (part[knob] != "").any()]
    return {arm: DODGE * (having.index(arm) - (len(having) - 1) / 2) if arm in having else 0.0 for arm in parts}


def _crosses(
    parts: dict[str, pd.DataFrame], arms: dict[str, int], knob: str, axis: Axis, sides: dict[str, float]
) -> go.Scatter:
    import plotly.graph_objects as go

    xs, colours, said = [], [], []
    for arm, part in parts.items():
        for group in groups_of(part, knob, axis, sides[arm]):
            failed = part.loc[group.rows][lambda rows: rows["status"] != "finished"]
            if failed.empty:
                continue
            reasons = failed["reason"].fillna("") if "reason" in failed.columns else [""] * len(failed)
            lines = [
                f"seed {seed}: {text(status)}" + (f", {text(str(reason)[:110])}" if reason else "")
                for seed, status, reason in zip(failed["seed"], failed["status"], reasons, strict=True)
            ]
            more = [f"and {len(lines) - MAX_REASONS} more"] if len(lines) > MAX_REASONS else []
            head = f"{_where(arm, knob, group)}: {len(failed)} of {len(group.rows)} runs did not finish"
            said.append("<br>".join([head, *lines[:MAX_REASONS], *more]))
            xs.append(group.x if group.label else axis.at(0.98))
            colours.append(colour_of(arms[arm]))
    return go.Scatter(
        x=xs, y=[0.96] * len(xs), mode="markers", hovertext=said, hoverinfo="text", showlegend=False, legendgroup="failed",
        marker={"symbol": "x", "size": 10, "color": colours, "line": {"color": "white", "width": 1}},
    )  # fmt: skip


def _tell_failed(figure: go.Figure, finished: np.ndarray, shown: set[Any]) -> None:
    import plotly.graph_objects as go

    count, seen = int((~finished).sum()), sum(not finished[row] for row in shown)
    if count:
        where = "" if seen == count else f",<br>{seen} of them drawn"
        figure.add_trace(go.Scatter(
            x=[None], y=[None], mode="markers", name=f"{count} of {len(finished)} runs<br>did not finish{where}",
            marker={"symbol": "x", "size": 10, "color": GREY}, legendgroup="failed", showlegend=True,
        ))  # fmt: skip


def _add_menu(figure: go.Figure, traces: list[_Trace], numbers: dict[str, np.ndarray], columns: int) -> None:
    """Add the menu: each entry sets the traces' numbers, and title, kind and range of the axes."""
    lines = [index for index, trace in enumerate(figure.data) if trace.meta == "response"]
    panel_count, buttons = max(trace.place for trace in traces) + 1, list[dict[str, Any]]()
    for name, values in numbers.items():
        data = [trace.data(values, name) for trace in traces]
        axes: dict[str, Any] = {}
        for place in range(panel_count):
            own = [(trace, part) for trace, part in zip(traces, data, strict=True) if trace.place == place]
            title = _in_lines(name) if place % columns == 0 else ""
            axis = {**_value_axis(own, values), "title.text": title}
            axes |= {f"{_y(place)}.{key}": value for key, value in axis.items()}
        if not buttons:
            figure.update_layout({key.replace(".", "_"): value for key, value in axes.items()})
        changes = {key: [part[key] for part in data] for key in ("y", "hovertext")}
        buttons.append({"label": text(name), "method": "update", "args": [changes, axes, lines]})
    menu = {
        "buttons": buttons, "x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom", "pad": {"b": 38}, "bgcolor": "white",
        "bordercolor": GREY, "font": {"size": 13},
    }  # fmt: skip
    figure.update_layout(updatemenus=[menu])


def _value_axis(drawn: list[tuple[_Trace, dict[str, list[Any]]]], values: np.ndarray) -> dict[str, Any]:
    seen = np.concatenate([values[group.rows] for trace, _ in drawn for group in trace.groups])
    seen = seen[np.isfinite(seen)]
    axis: dict[str, Any] = {"type": "linear", "range": [0.0, 1.0], "dtick": None, "exponentformat": "power"}
    if not len(seen):
        return axis
    low, high = float(seen.min()), float(seen.max())
    if low > 0 and high >= LOG_FROM * low:
        axis |= log_axis(seen)
        first, last = axis["range"]
        return {**axis, "range": [first, last + 0.1 * (last - first)]}
    span = high - low or abs(high) or 1.0
    ends = [y for trace, part in drawn if trace.kind == "interval" for y in part["y"]]
    ends = [min(max(end, low - span / 2), high + span / 2) for end in ends if end is not None]
    low, high = min([low, *ends]), max([high, *ends])
    span = high - low or span
    return {**axis, "range": [low - 0.05 * span, high + 0.12 * span]}
