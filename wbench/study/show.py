"""Showing how far a study has come."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from wbench.study.progress import Progress, Told


@contextmanager
def bar(show: bool, name: str, told: Told | None = None) -> Iterator[Told | None]:
    """Show a progress bar on standard error: runs done, what is left of the time, runs that failed, and notes.

    Args:
        show: Whether to.
        name: What stands before it.
        told: Is told as well.

    Yields:
        What is to be told of the progress, or `None` when there is nobody to tell.
    """
    if not show:
        yield told
        return
    from wbench.progress import bar as make

    line: Any = make(desc=name, unit="run", leave=True, bar_format="{desc}: {percentage:3.0f}%|{bar}| {postfix}")

    def tell(progress: Progress) -> None:
        line.total = 1000
        line.n = round(1000 * progress.share)
        parts = [f"{progress.done} of {progress.total} runs", f"{clock(progress.seconds_left)} left"]
        if progress.failed:
            parts.append(f"{progress.failed} failed")
        line.set_postfix_str(", ".join(parts), refresh=False)
        line.update(0)
        if progress.note:
            line.write(progress.note)
        if told is not None:
            told(progress)

    try:
        yield tell
    finally:
        line.close()


def clock(seconds: float | None) -> str:
    """Return a duration in short, e.g. `2:05` or `1:02:05`; `?` where it is not known.

    Args:
        seconds: The duration.
    """
    if seconds is None:
        return "?"
    minutes, rest = divmod(int(max(0.0, seconds) + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
