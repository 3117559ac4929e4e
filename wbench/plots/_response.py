"""The runs of a study as a figure of responses needs them: by arm and value of a knob, with places on an axis."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from wbench.errors import DataError
from wbench.plots._style import text

if TYPE_CHECKING:
    import pandas as pd

LEVEL = 0.95
DODGE = 0.03  # share of the axis between arms that have a value in common
MARGIN = 0.07  # share of the axis beyond the values


@dataclass(frozen=True)
class Axis:
    """Where a knob's values stand.

    Attributes:
        positions: Value in words to place; places count in decades on a logarithmic axis.
        log: Whether it is one.
    """

    positions: dict[str, float]
    log: bool

    @property
    def ends(self) -> tuple[float, float]:
        """First and last place."""
        places = self.positions.values() or [0.0]
        span = max(places) - min(places) or 1.0
        return min(places) - MARGIN * span, max(places) + MARGIN * span

    def at(self, share: float) -> float:
        """Return a coordinate.

        Args:
            share: Of the axis, from its beginning.
        """
        low, high = self.ends
        return self._coordinate(low + share * (high - low))

    def of(self, label: str, shift: float = 0.0) -> float:
        """Return a value's coordinate.

        Args:
            label: The value in words.
            shift: Share of the axis by which to move it.
        """
        low, high = self.ends
        return self._coordinate(self.positions[label] + shift * (high - low))

    def _coordinate(self, place: float) -> float:
        return float(10**place) if self.log else place

    @property
    def settings(self) -> dict[str, Any]:
        """For plotly: the values themselves as ticks, where they do not crowd."""
        kind = {"type": "log" if self.log else "linear", "range": list(self.ends)}
        places, labels = list(self.positions.values()), list(self.positions)
        if not places:
            return {**kind, "showticklabels": False}
        even = places == list(range(len(places)))
        if not even and len(places) > 1 and min(np.diff(sorted(places))) < MARGIN * (max(places) - min(places)):
            return kind
        return {
            **kind,
            "tickvals": [self._coordinate(place) for place in places],
            "ticktext": [text(_) for _ in labels],
        }


@dataclass(frozen=True)
class Group:
    """The runs of an arm at one value of a knob, or all of an arm that has no such knob.

    Attributes:
        label: The value in words; empty without the knob.
        x: Its coordinate.
        beside: Coordinate of the single seeds, off the mean and its interval.
        rows: Places in the table.
        chosen: Whether it is of the arm's chosen point.
    """

    label: str
    x: float
    beside: float
    rows: np.ndarray
    chosen: bool


def mean_of(values: np.ndarray) -> tuple[float, float, int]:
    """Return mean, half width of its interval (Student's t; NaN below two values) and how many finite values there are.

    Args:
        values: (runs,).
    """
    from scipy import stats

    values = values[np.isfinite(values)]
    count = len(values)
    if count < 2:
        return float(values[0]) if count else math.nan, math.nan, count
    reach = stats.t.ppf(0.5 + LEVEL / 2, count - 1) * values.std(ddof=1) / math.sqrt(count)
    return float(values.mean()), float(reach), count


def label_of(value: Any) -> str:
    """Return a knob's value in words; empty where there is none.

    Args:
        value: A number, text, ...
    """
    if isinstance(value, bool | np.bool_):
        return str(value).lower()
    if isinstance(value, int | float | np.number):
        return "" if math.isnan(value) else f"{value:.12g}"
    if isinstance(value, tuple | list):
        return ", ".join(map(label_of, value))
    return "" if value is None else str(value)


def axis_of(values: Iterable[Any]) -> Axis:
    """Return an axis: logarithmic from about a decade on, with even places for words and for zero beside several decades.

    Args:
        values: Of a knob, with repetitions.
    """
    given = {label_of(value): value for value in values if label_of(value)}
    if not all(isinstance(value, int | float | np.number) and not isinstance(value, bool) for value in given.values()):
        return Axis({label: float(place) for place, label in enumerate(given)}, log=False)
    numbers = {label: float(value) for label, value in sorted(given.items(), key=lambda item: float(item[1]))}
    positive = [value for value in numbers.values() if value > 0]
    ratio = positive[-1] / positive[0] if positive else 1.0
    if ratio >= 8 and len(positive) == len(numbers):
        return Axis({label: math.log10(value) for label, value in numbers.items()}, log=True)
    if ratio >= 100 and 0.0 in numbers.values():
        return Axis({label: float(place) for place, label in enumerate(numbers)}, log=False)
    return Axis(numbers, log=False)


def slice_of(table: pd.DataFrame, arm: str, knob: str, knobs: Sequence[str]) -> pd.DataFrame:
    """Return an arm's rows whose other knobs stand at the arm's chosen point.

    Args:
        table: With knobs in words.
        arm: Which arm.
        knob: The one that varies.
        knobs: All of them.

    Raises:
        DataError: If other knobs vary and no point is chosen.
    """
    part = table[table["arm"].astype(str) == arm]
    others = [other for other in knobs if other != knob and part[other].nunique() > 1]
    if not others:
        return part
    chosen = part[part["chosen"].astype(bool)] if "chosen" in part.columns else part[:0]
    if chosen.empty:
        raise DataError(
            f"plots.response: arm '{arm}' has several values of {', '.join(others)} and no chosen point at which to draw {knob}; "
            "mark one point's rows in a column 'chosen'"
        )
    for other in others:
        part = part[part[other] == chosen[other].iloc[0]]
    return part


def title_of(parts: dict[str, pd.DataFrame], knob: str, knobs: Sequence[str]) -> str:
    """Return at which values of the other knobs each arm stands; empty with a single knob.

    Args:
        parts: Arm to rows, from `slice_of`.
        knob: The one that varies.
        knobs: All of them.
    """
    said: dict[str, list[str]] = {}
    for arm, part in parts.items():
        others = [f"{other} = {part[other].iloc[0]}" for other in knobs if other != knob and part[other].iloc[0]]
        if others:
            said.setdefault(", ".join(others), []).append(arm)
    if len(said) == 1 and len(*said.values()) == len(parts):
        return f"at {next(iter(said))}"
    return "; ".join(f"{', '.join(arms)} at {others}" for others, arms in said.items())


def groups_of(part: pd.DataFrame, knob: str, axis: Axis, shift: float) -> list[Group]:
    """Return an arm's runs by value of a knob.

    Args:
        part: From `slice_of`.
        knob: The one that varies.
        axis: Its axis.
        shift: Share of the axis by which the arm's points are moved.
    """
    groups = []
    for label in [label for label in axis.positions if (part[knob] == label).any()] or [""]:
        rows = part[part[knob] == label]
        chosen = bool(label and "chosen" in rows.columns and rows["chosen"].astype(bool).any())
        x, beside = (axis.of(label, shift + more) if label else math.nan for more in (0.0, DODGE / 2.5))
        groups.append(Group(label, x, beside, rows.index.to_numpy(), chosen))
    return groups
