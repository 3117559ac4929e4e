"""What all figures share: colours, layout, sliders, decimation."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from wbench.errors import FitError

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

# Okabe and Ito's colours in the order that keeps 3 : 1 contrast on white longest; then dashes repeat them.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("solid", "dash", "dot", "dashdot")
SIGNED = ((0.0, "#0072B2"), (0.5, "#F7F7F7"), (1.0, "#D55E00"))
CONFIG = {
    "displaylogo": False,
    "showSendToCloud": False,
    "responsive": True,
    "modeBarButtonsToRemove": ["sendDataToCloud", "lasso2d", "select2d"],
}
MAX_POINTS = 1000
MAX_PANELS = 6
GRID, INK = "#E5E5E5", "#222222"


def require(frame: pd.DataFrame, columns: Sequence[str], figure: str) -> None:
    """Refuse a table that lacks what a figure draws.

    Args:
        frame: The table; an empty one is let through.
        columns: Needed columns.
        figure: The figure's name.

    Raises:
        FitError: If a column is missing; names it and those there are.
    """
    missing = [name for name in columns if name not in frame.columns]
    if missing and len(frame.columns):
        raise FitError(
            f"plots.{figure} needs the columns {', '.join(columns)}; missing: {', '.join(missing)}; given: {', '.join(map(str, frame.columns))}"
        )


def empty(title: str) -> go.Figure:
    """Return a figure that says that there is nothing to draw, and warn.

    Args:
        title: What was to be drawn.
    """
    import plotly.graph_objects as go

    warnings.warn(f"plots.{title}: the table is empty, so is the figure", stacklevel=3)
    figure = go.Figure()
    figure.add_annotation(
        text="nothing was recorded", x=0.5, y=0.5, xref="paper", yref="paper", showarrow=False, font={"size": 16}
    )
    figure.update_xaxes(visible=False).update_yaxes(visible=False)
    return layout(figure, height=240)


def layout(figure: go.Figure, *, height: int = 420, title: str = "", legend: bool = True) -> go.Figure:
    """Give a figure the common look.

    Args:
        figure: Changed in place.
        height: Pixels.
        title: Shown above.
        legend: Whether it has one; it stands to the right, off the data.

    Returns:
        The figure.
    """
    figure.update_layout(
        template="none", height=height, autosize=True, showlegend=legend, paper_bgcolor="white", plot_bgcolor="white",
        font={"family": "system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif", "size": 13, "color": INK},
        margin={"l": 75, "r": 30, "t": 60 if title else 45, "b": 60}, hoverlabel={"namelength": -1},
        legend={"x": 1.02, "y": 1, "xanchor": "left", "yanchor": "top"},
    )  # fmt: skip
    if title:
        figure.update_layout(title={"text": title, "x": 0.01, "xanchor": "left", "font": {"size": 15}})
    axis = {
        "gridcolor": GRID,
        "zeroline": False,
        "linecolor": "#888",
        "ticks": "outside",
        "tickcolor": "#888",
        "automargin": True,
    }
    figure.update_xaxes(**axis)
    figure.update_yaxes(**axis)
    return figure


def style_of(index: int) -> dict[str, Any]:
    """Return colour and dash of the index-th run or layer; after the colours the dash changes.

    Args:
        index: From 0.
    """
    return {"color": PALETTE[index % len(PALETTE)], "dash": DASHES[(index // len(PALETTE)) % len(DASHES)], "width": 2}


def decimate(x: np.ndarray, y: np.ndarray, limit: int = MAX_POINTS) -> tuple[np.ndarray, np.ndarray]:
    """Return at most `limit` points of a line, the extremes of each stretch kept.

    Args:
        x: (points,).
        y: (points,).
        limit: At most.

    Returns:
        x and y.
    """
    x, y = np.asarray(x), np.asarray(y, dtype=float)
    if len(x) <= limit:
        return x, y
    keep = {0, len(x) - 1}
    for part in np.array_split(np.arange(len(x)), (limit - 2) // 2):
        values = y[part]
        if np.isfinite(values).any():
            keep.update((int(part[np.nanargmin(values)]), int(part[np.nanargmax(values)])))
    index = np.array(sorted(keep))
    return x[index], y[index]


def largest_layers(frame: pd.DataFrame, layer: str | None) -> list[str]:
    """Return which layers to draw: the named one, else the first few in the model's order.

    Args:
        frame: With a `layer` column.
        layer: A name, or `None`.

    Raises:
        FitError: If the named layer is not in the table.
    """
    names = list(dict.fromkeys(frame["layer"]))
    if layer is None:
        return names[:MAX_PANELS]
    if layer not in names:
        raise FitError(f"layer='{layer}' is not in the table; it has: {', '.join(names[:12])}")
    return [layer]


def runs_of(frame: pd.DataFrame) -> list[str]:
    """Return the runs of a table, one nameless run without a `run` column.

    Args:
        frame: The table.
    """
    return list(dict.fromkeys(frame["run"].astype(str))) if "run" in frame.columns else [""]


def of_run(frame: pd.DataFrame, run: str) -> pd.DataFrame:
    """Return the rows of a run.

    Args:
        frame: The table.
        run: From `runs_of`.
    """
    return frame[frame["run"].astype(str) == run] if "run" in frame.columns else frame


def with_steps(figure: go.Figure, steps: Sequence[int], traces_at: Callable[[int], list[Any]]) -> go.Figure:
    """Draw a figure's first state and add a slider over steps that works without a kernel (frames inside the figure).

    Args:
        figure: With axes laid out; traces are added.
        steps: Steps with a record.
        traces_at: Step to traces, always as many and in the same order, each with its axes set.

    Returns:
        The figure, standing at the last step.
    """
    import plotly.graph_objects as go

    states = {step: traces_at(step) for step in steps}
    figure.add_traces(states[steps[-1]])
    if len(steps) < 2:
        return figure
    figure.frames = [go.Frame(name=str(step), data=traces) for step, traces in states.items()]
    jump = {"mode": "immediate", "frame": {"duration": 0, "redraw": True}, "transition": {"duration": 0}}
    buttons = [{"label": str(step), "method": "animate", "args": [[str(step)], jump]} for step in steps]
    bottom = figure.layout.margin.b or 60
    height = figure.layout.height or 420
    figure.update_layout(
        margin={"b": bottom + 75},
        height=height + 75,
        sliders=[{
            "active": len(steps) - 1, "steps": buttons, "x": 0.0, "len": 1.0, "pad": {"t": 60, "b": 5},
            "currentvalue": {"prefix": "step ", "font": {"size": 13}}, "ticklen": 3, "font": {"size": 11},
        }],
    )  # fmt: skip
    return figure


def panels(titles: Sequence[str], *, columns: int = 3, **options: Any) -> tuple[go.Figure, list[tuple[int, int]], int]:
    """Return a grid of small panels.

    Args:
        titles: One a panel.
        columns: At most so many side by side.
        **options: For plotly's `make_subplots`.

    Returns:
        The figure, each panel's (row, column), and the number of rows.
    """
    from plotly.subplots import make_subplots

    width = min(columns, len(titles))
    rows = -(-len(titles) // width)
    space = {
        "horizontal_spacing": 0.27 / width if width > 1 else 0.1,
        "vertical_spacing": 0.36 / rows if rows > 1 else 0.1,
    }
    figure = make_subplots(rows=rows, cols=width, subplot_titles=list(titles), **{**space, **options})
    figure.update_annotations(font_size=13)
    return figure, [(index // width + 1, index % width + 1) for index in range(len(titles))], rows


def axes_of(place: int) -> dict[str, str]:
    """Return the axes of the index-th panel, for a trace made outside the figure.

    Args:
        place: From 0.
    """
    return {"xaxis": f"x{place + 1 if place else ''}", "yaxis": f"y{place + 1 if place else ''}"}
