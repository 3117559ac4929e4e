"""Models merged one after another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wbench.plots._style import (
    DASHES,
    GREY,
    colour_of,
    empty,
    layout,
    marker_of,
    of_run,
    panels,
    require,
    runs_of,
    text,
)

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

TITLES = ("what the sum of task vectors is divided by", "distance from the base, over the mean of the models' own")


def merging(frame: pd.DataFrame) -> go.Figure:
    """Draw, for each arrival, what the sum of task vectors is divided by, and how far the merged model is from the base.

    Dashed: the square root of the number of models, the divisor of vectors of one length at right angles, which leaves the
    distance at 1 (dashed, too); their mean is nearer to the base by that root.

    Args:
        frame: Columns arrival, divisor, distance, mean_norm; `run` where there are several, `member` (shown on hover) when there.

    Returns:
        A figure.

    Raises:
        DataError: If a column is missing.
    """
    import plotly.graph_objects as go

    require(frame, ("arrival", "divisor", "distance", "mean_norm"), "merging")
    if frame.empty:
        return empty("merging")
    figure, _, _ = panels(TITLES, columns=1)
    last = int(frame["arrival"].max())
    steps = np.arange(1, last + 1)
    for row, (line_of, label) in enumerate(((np.sqrt(steps), "√t"), (np.ones(last), "1")), start=1):
        line = {"color": GREY, "dash": "dash", "width": 1.5}
        trace = go.Scatter(
            x=steps, y=line_of, mode="lines", line=line, name="√t: at right angles" if row == 1 else label,
            showlegend=row == 1, hovertemplate=f"{label} = %{{y:.3f}}<extra></extra>",
        )  # fmt: skip
        figure.add_trace(trace, row=row, col=1)
    for run, number in runs_of(frame).items():
        part = of_run(frame, run).sort_values("arrival")
        line = {"color": colour_of(number), "dash": DASHES[number % len(DASHES)], "width": 2}
        members = [text(name) for name in part["member"]] if "member" in part else [""] * len(part)
        scaled = part["distance"] / part["mean_norm"].where(part["mean_norm"] > 0)
        for row, values in enumerate((part["divisor"], scaled), start=1):
            trace = go.Scatter(
                x=part["arrival"], y=values.replace([np.inf, -np.inf], np.nan), mode="lines+markers", line=line,
                marker=marker_of(number), name=text(run or "merged"), legendgroup=run, showlegend=row == 1,
                customdata=members, hovertemplate="%{x} models, last %{customdata}: %{y:.3f}",
            )  # fmt: skip
            figure.add_trace(trace, row=row, col=1)
    layout(figure, height=580)
    figure.update_xaxes(title_text="models merged", row=2, col=1)
    figure.update_xaxes(dtick=max(1, last // 12), range=[0.7, last + 0.3])
    figure.update_yaxes(title_text="divisor λ", row=1, col=1)
    figure.update_yaxes(title_text="distance", rangemode="tozero", row=2, col=1)
    return figure
