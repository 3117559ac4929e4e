"""What a panel is given and what it gives."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from wbench.workbench.shown import Shown

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import plotly.graph_objects as go


@dataclass(frozen=True)
class Look:
    """How the user wants to see things, the same for all panels.

    Attributes:
        cursor: The step that all panels show; `None`: the last.
        layer: A layer, or `None` for the largest few.
        smooth: Weight of the moving average of curves; 0: none.
        seeds: Seeds as one line with an interval, or each by itself.
        x: Horizontal axis of curves.
        over: Weights and spectra of all at the cursor (`log`: densities on a log axis), or over the steps.
        columns: Panels side by side in a figure that has half of the width.
        whole: The same in one that has all of the width.
        metrics: Metrics in runs without steps, and others, as `split name`; empty: what is usual.
    """

    cursor: int | None = None
    layer: str | None = None
    smooth: float = 0.0
    seeds: Literal["interval", "lines"] = "interval"
    x: Literal["step", "samples"] = "step"
    over: Literal["cursor", "log", "steps"] = "cursor"
    columns: int = 2
    whole: int = 3
    metrics: tuple[str, ...] = ()


@dataclass(frozen=True)
class Drawn:
    """What a panel gives.

    Attributes:
        figure: The figure; `None`: there is nothing to draw, and the caption says why.
        caption: One sentence, with the numbers.
        frame: What is drawn, for the CSV.
    """

    figure: go.Figure | None
    caption: str
    frame: pd.DataFrame | None = None


@dataclass(frozen=True)
class Panel:
    """A panel.

    Attributes:
        id: Short name.
        title: Heading.
        draw: From what is on display and how, to what is seen.
        tables: Tables that it draws, of which a new record means drawing anew; `method.` stands for all methods' own.
        moves: Whether it depends on the cursor beyond the line that marks it, its caption included.
        wide: Whether it takes the whole width.
        legend: Whether it has a legend of its own, besides that of the runs.
    """

    id: str
    title: str
    draw: Callable[[Sequence[Shown], Look], Drawn]
    tables: tuple[str, ...] = ()
    moves: bool = False
    wide: bool = False
    legend: bool = False

    def draws(self, changed: Iterable[str]) -> bool:
        """Return whether one of these tables is drawn here.

        Args:
            changed: Names of tables.
        """
        return any(name in self.tables or (name.startswith("method.") and "method." in self.tables) for name in changed)


def quietly(draw: Callable[..., go.Figure], *args: Any, **options: Any) -> go.Figure:
    """Return a figure without the warning that its table is empty: the caption says that.

    Args:
        draw: A function of `wbench.plots`.
        *args: Its table.
        **options: Its options.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return draw(*args, **options)


def at(frame: pd.DataFrame, cursor: int | None) -> tuple[pd.DataFrame, str]:
    """Return each run's rows at the cursor, or at its nearest earlier record, and which step that is in words.

    Args:
        frame: With `run` and `step`.
        cursor: The cursor; `None`: the last step.
    """
    from wbench.plots._style import codes_of

    chosen, said = placed(codes_of(frame["run"])[0], frame["step"].to_numpy(), cursor)
    return frame[chosen], said


def placed(runs: np.ndarray, steps: np.ndarray, cursor: int | None) -> tuple[np.ndarray, str]:
    """Return which records `at` takes, and which step that is in words.

    Args:
        runs: (records,), a number a run.
        steps: (records,).
        cursor: The cursor; `None`: the last step.

    Returns:
        (records,) of truth values, and the words.
    """
    import numpy as np

    chosen, found = np.zeros(len(steps), dtype=bool), set()
    for run in np.unique(runs):
        own = runs == run
        theirs = steps[own]
        earlier = theirs if cursor is None else theirs[theirs <= cursor]
        step = int(earlier.max() if len(earlier) else theirs.min())
        chosen |= own & (steps == step)
        found.add(step)
    said = " and ".join(f"{step:,}" for step in sorted(found)[:3]) + ("..." if len(found) > 3 else "")
    if cursor is None or found == {cursor}:
        return chosen, f"step {said}"
    return chosen, f"step {said}, the nearest record to {cursor:,}"


def listed(names: Sequence[str], most: int = 4) -> str:
    """Return names in a sentence.

    Args:
        names: Names.
        most: At most so many.
    """
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
