"""A slider over steps that works in a saved page without a kernel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

MAX_STEPS = 13


def steps_of(frame: pd.DataFrame, limit: int = MAX_STEPS) -> list[int]:
    """Return the steps that a slider shows.

    Args:
        frame: The table; without a `step` column there is one state.
        limit: At most so many, spread evenly, first and last among them.
    """
    if "step" not in frame.columns:
        return [0]
    steps = sorted(int(step) for step in frame["step"].unique())
    if len(steps) <= limit:
        return steps
    return [steps[index] for index in sorted({round(place) for place in np.linspace(0, len(steps) - 1, limit)})]


def at_step(frame: pd.DataFrame, step: int) -> pd.DataFrame:
    """Return the rows of a step; of the nearest earlier one where it was not recorded, else of the first.

    Args:
        frame: The table.
        step: From `steps_of`.
    """
    if "step" not in frame.columns or frame.empty:
        return frame
    return frame[_chosen(frame["step"].to_numpy(), step)]


def rows_at(part: dict[str, np.ndarray], step: int) -> dict[str, np.ndarray]:
    """Return what `at_step` does, of columns as arrays.

    Args:
        part: Column to values.
        step: From `steps_of`.
    """
    steps = part.get("step")
    if steps is None or not len(steps):
        return part
    rows = _chosen(steps, step)
    return {name: values[rows] for name, values in part.items()}


def _chosen(steps: np.ndarray, step: int) -> np.ndarray:
    earlier = steps[steps <= step]
    return np.asarray(steps == (earlier.max() if len(earlier) else steps.min()))


def with_steps(figure: go.Figure, steps: Sequence[int], traces_at: Callable[[int], list[Any]]) -> go.Figure:
    """Draw a figure's last state and add a slider over steps (frames inside the figure).

    Args:
        figure: With axes laid out; traces are added.
        steps: Steps with a record.
        traces_at: Step to traces, always as many and in the same order, each with its axes set.

    Returns:
        The figure, standing at the last step.
    """
    import plotly.graph_objects as go

    states = [traces_at(step) for step in steps]
    figure.add_traces(states[-1])
    if len(steps) < 2:
        return figure
    changing = [_changing(traces) for traces in zip(*states, strict=True)]
    figure.frames = [
        go.Frame(name=str(step), data=[_only(trace, keys) for trace, keys in zip(traces, changing, strict=True)])
        for step, traces in zip(steps, states, strict=True)
    ]
    jump = {"mode": "immediate", "frame": {"duration": 0, "redraw": True}, "transition": {"duration": 0}}
    buttons = [{"label": str(step), "method": "animate", "args": [[str(step)], jump]} for step in steps]
    figure.update_layout(
        margin={"b": (figure.layout.margin.b or 60) + 75},
        height=(figure.layout.height or 420) + 75,
        sliders=[{
            "active": len(steps) - 1, "steps": buttons, "x": 0.0, "len": 1.0, "pad": {"t": 60, "b": 5},
            "currentvalue": {"prefix": "step ", "font": {"size": 13}}, "ticklen": 3, "font": {"size": 12},
        }],
    )  # fmt: skip
    return figure


def _changing(traces: Sequence[Any]) -> set[str]:
    # a frame need not repeat what is the same in all of them
    states = [_held(trace) for trace in traces]
    keys = {key for state in states for key in state}
    return {key for key in keys if any(not _same(state.get(key), states[-1].get(key)) for state in states)}


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return np.array_equal(np.asarray(one), np.asarray(other))
    return bool(one == other)


def _only(trace: Any, keys: set[str]) -> dict[str, Any]:
    held = _held(trace)
    return {"type": held["type"], **{key: held[key] for key in keys if key in held}}


def _held(trace: Any) -> dict[str, Any]:
    return trace if isinstance(trace, dict) else trace.to_plotly_json()
