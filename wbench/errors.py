"""Errors a user can cause.

Every one is a `WBenchError`; its message says what was given, what is allowed and what to do. Each also derives from
the built-in exception that callers of plain Python code would expect (`ValueError`, `KeyError`, ...), so that generic
handlers keep working.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class WBenchError(Exception):
    """Base of all errors that wbench raises on purpose."""


class KnobError(WBenchError, ValueError):
    """A method's, task's or recipe's field got a value outside what it allows, or a field does not exist."""


class UnknownNameError(WBenchError, LookupError):
    """A method, task, probe, dataset or claim of that name does not exist."""


class LayerMatchError(WBenchError, ValueError):
    """A `layers` pattern matches no layer of the model."""


class FitError(WBenchError, ValueError):
    """A method does not fit a model: a shape, dtype or layer kind breaks one of its rules."""


class CompositionError(WBenchError, ValueError):
    """Methods that cannot be used together in one run."""


class DataError(WBenchError, ValueError):
    """Data that is empty, corrupted, not finite, or of the wrong shape."""


class MissingPackageError(WBenchError, ImportError):
    """An optional package is needed; the message names the command that installs it."""


class CheckpointError(WBenchError, ValueError):
    """A checkpoint is missing, truncated, unsafe to load, or holds values that are not finite."""


class RunError(WBenchError, RuntimeError):
    """A run directory is missing, damaged or cannot be written.

    Attributes:
        writer: Where writing failed, the `RunWriter` that still holds the run: `error.writer.commit(to=RunStore(folder))`.
    """

    writer: Any = None


class ClaimError(WBenchError, ValueError):
    """A claim is ill-defined or cannot be evaluated on the values it was given."""


class StudyError(WBenchError, ValueError):
    """A study is ill-defined, or some of its runs failed."""


class ReportError(WBenchError, RuntimeError):
    """A notebook failed while a report was made; the partial notebook is kept."""


def closest(name: str, known: Iterable[str], n: int = 3) -> str:
    """Return ` Did you mean a, b?`, or the first known names when none is close.

    Args:
        name: What was asked for.
        known: The names that exist.
        n: How many to suggest.

    Returns:
        A sentence that starts with a space, or an empty string when nothing is known.
    """
    names = sorted(set(known))
    if not names:
        return ""
    near = difflib.get_close_matches(name, names, n=n, cutoff=0.4)
    if near:
        return f" Did you mean {', '.join(near)}?"
    shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    return f" Known: {shown}."
