"""From a knob to the stops of its slider and back."""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass

from wbench.knobs import Knob

STOPS = 200
DIGITS = 3


@dataclass(frozen=True)
class Scale:
    """The values at which a slider stops.

    Attributes:
        values: Increasing; the slider's position is the place in it.
    """

    values: tuple[float, ...]

    def position(self, value: float) -> int:
        """Return the stop nearest to a value; on a scale of decades the nearest by ratio.

        Args:
            value: A number, also one between or beyond the stops.
        """
        after = bisect.bisect_left(self.values, value)
        if after == 0:
            return 0
        if after == len(self.values):
            return after - 1
        low, high = self.values[after - 1], self.values[after]
        middle = math.sqrt(low * high) if low > 0 and self._decades else (low + high) / 2
        return after - 1 if value < middle else after

    @property
    def _decades(self) -> bool:
        first, second, last = self.values[-3:] if len(self.values) > 2 else (0.0, 1.0, 2.0)
        return first > 0 and not math.isclose(last - second, second - first, rel_tol=0.01)


def scale_of(knob: Knob) -> Scale | None:
    """Return the stops of a knob's slider, or `None` where it is no bounded number.

    Whole numbers of a short linear range stop at each; else there are up to 200 stops, evenly spaced or in equal ratios, rounded to
    three digits, the ends and the default among them. A scale from zero has zero as its first stop.

    Args:
        knob: What is known of the field.
    """
    if knob.kind not in {"int", "float"} or knob.choices or knob.slider is None:
        return None
    low, high = map(float, knob.slider)
    if not high > low:
        return None
    whole = knob.kind == "int"
    if knob.scale == "log0":
        least = low if low > 0 else (1.0 if whole else high * 1e-6)
        values = {0.0, *_ratios(least, high)}
    elif knob.scale == "log" and low > 0:
        values = set(_ratios(low, high))
    elif whole and high - low <= STOPS:
        values = {low + index for index in range(int(high - low) + 1)}
    else:
        values = {low + (high - low) * index / STOPS for index in range(STOPS + 1)}
    stops = {low, high} - ({low} if knob.scale == "log0" else set())
    for value in values:
        stops.add(float(round(value)) if whole else _rounded(value, high - low if knob.scale == "linear" else value))
    if isinstance(knob.default, int | float) and low <= knob.default <= high:
        stops.add(float(knob.default))
    allowed = [v for v in stops if (knob.low is None or v >= knob.low) and (knob.high is None or v <= knob.high)]
    return Scale(tuple(sorted(v for v in allowed if low <= v <= high or (v == 0.0 and knob.scale == "log0"))))


def _ratios(low: float, high: float) -> list[float]:
    count = min(STOPS, max(1, round(40 * math.log10(high / low))))
    return [low * (high / low) ** (index / count) for index in range(count + 1)]


def _rounded(value: float, size: float) -> float:
    if value == 0 or size == 0:
        return 0.0
    return round(value, DIGITS - 1 - math.floor(math.log10(abs(size))))


def text_of(value: object) -> str:
    """Return a value as a person would type it.

    Args:
        value: A knob's value.
    """
    if value is None:
        return "auto"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, tuple):
        return ", ".join(text_of(part) for part in value)
    return str(value)
