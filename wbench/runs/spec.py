"""What determines a run, as text, and the run's name made from it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

from wbench.errors import RunError

PLAIN = frozenset({str, int, bool})


def canonical(value: Any, path: str = "spec") -> str:
    """Return a value as canonical JSON: sorted keys, no spaces, floats as Python prints them.

    Args:
        value: JSON-able.
        path: Where the value stands, for the message.

    Returns:
        Text.

    Raises:
        RunError: If a value cannot be written as JSON; names its place.
    """
    found = value if _is_plain(value) else _plain(value, path)
    return json.dumps(found, sort_keys=True, separators=(",", ":"), allow_nan=False)


def run_id(spec: Mapping[str, Any]) -> str:
    """Return the name of a run: the first 16 hex digits of the SHA-256 of what determines it.

    Args:
        spec: JSON-able.

    Returns:
        16 hex digits.

    Raises:
        RunError: If a value cannot be written as JSON; names its place.
    """
    return _hash(canonical(spec))


def config_id(spec: Mapping[str, Any]) -> str:
    """Return what runs share that differ in their seed alone.

    Args:
        spec: As in `run_id`.
    """
    return run_id({**spec, "seed": None})


def loaded_id(spec: Mapping[str, Any]) -> str:
    """Return the name of a run from a spec that was read from JSON: as `run_id`, several times faster.

    Args:
        spec: As `json.loads` returns it: keys are text already.

    Returns:
        16 hex digits; empty where a number is not finite, which no spec has.
    """
    try:
        return _hash(json.dumps(spec, sort_keys=True, separators=(",", ":"), allow_nan=False))
    except (ValueError, RecursionError):
        return ""


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _is_plain(value: Any) -> bool:
    # what JSON takes as it is: nearly every spec, told fast
    kind = type(value)
    if kind is dict:
        return all(type(key) is str and _is_plain(part) for key, part in value.items())
    if kind is list or kind is tuple:
        return all(map(_is_plain, value))
    return value is None or kind in PLAIN or kind is float and math.isfinite(value)


def _plain(value: Any, path: str) -> Any:
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise RunError(f"{path} has the key {key!r}; keys must be text")
        return {key: _plain(part, f"{path}.{key}") for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part, f"{path}[{index}]") for index, part in enumerate(value)]
    if value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    allowed = "text, finite numbers, true, false, none, lists, maps"
    raise RunError(f"{path}={value!r} cannot be written as JSON; allowed: {allowed}")
