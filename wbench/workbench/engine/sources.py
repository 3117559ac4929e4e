"""Which files the methods of a job are written in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from wbench.training.identity import class_digest
from wbench.training.job import as_methods


def sources(wanted: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return the methods' classes that a worker imports by name, each with a digest of its file.

    Args:
        wanted: Arguments of `wb.train`; what is not allowed in them is left out, as the worker refuses it.
    """
    found: dict[str, str] = {}
    for arguments in wanted:
        with suppress(Exception):  # a user's own class raises what it likes
            for method in as_methods(arguments.get("methods")):
                kind = type(method)
                if kind.__module__ != "__main__":  # those travel with the job
                    found[f"{kind.__module__}.{kind.__qualname__}"] = class_digest(kind)
    return found
