"""Other settings of a method, one field at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from wbench.errors import KnobError
from wbench.knobs import Knob
from wbench.method import Method


def other_values(method: Method, name: str) -> Iterator[Method]:
    """Yield the method with one field set to other values: the slider's ends and middle, the other choices, the other flag.

    Args:
        method: The method.
        name: A field; of one that is text or a tuple without choices there is no other value to be known.
    """
    for value in _values(type(method).knobs()[name], getattr(method, name)):
        try:
            yield method.replace(**{name: value})
        except KnobError:  # another field forbids it
            continue


def _values(spec: Knob, now: Any) -> list[Any]:
    found: list[Any] = []
    if spec.kind == "bool":
        found = [not now]
    elif spec.scale == "choice":
        found = list(spec.choices)
    elif spec.scale == "choices":
        found = [(choice,) for choice in spec.choices]
    elif spec.slider is not None and spec.kind in {"int", "float"}:
        low, high = spec.slider
        middle = (low * high) ** 0.5 if spec.scale.startswith("log") and low > 0 else (low + high) / 2
        found = [int(value) if spec.kind == "int" else float(value) for value in (low, middle, high)]
    return [value for value in dict.fromkeys(found) if value != now]
