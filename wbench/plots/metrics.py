"""Metrics over training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wbench.plots._style import (
    MAX_PANELS,
    colour_of,
    decimate,
    empty,
    layout,
    of_run,
    panels,
    require,
    runs_of,
    style_of,
    text,
)

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


def metrics(frame: pd.DataFrame, *, names: tuple[str, ...] | None = None) -> go.Figure:
    """Draw metrics over steps, a panel a metric and split; several seeds of a run become their mean with a 95 % interval.

    The interval is Student's t over the seeds; the axes follow the seeds' own values, so that a wide interval of few seeds is
    cut off rather than hiding the lines.

    Args:
        frame: Columns step, split, name, value, and `run`, `seed` when there.
        names: Which, as `split name`; default: what was measured at more than one step.

    Returns:
        A figure.

    Raises:
        DataError: If a column is missing.
    """
    import plotly.graph_objects as go

    require(frame, ("step", "split", "name", "value"), "metrics")
    frame = frame[np.isfinite(frame["value"].to_numpy(float))] if len(frame) else frame
    if frame.empty:
        return empty("metrics")
    frame = frame.assign(what=frame["split"] + " " + frame["name"])
    found = list(dict.fromkeys(frame["what"]))
    several = [what for what in found if frame[frame["what"] == what]["step"].nunique() > 1]
    wanted = [what for what in (names or several or found) if what in found]
    if not wanted:
        return empty("metrics")
    shown = wanted[:MAX_PANELS]
    figure, places, rows = panels(shown, columns=2)
    for run, index in runs_of(frame).items():
        named = False
        for place, what in enumerate(shown):
            part, (row, column) = of_run(frame[frame["what"] == what], run), places[place]
            if part.empty:
                continue
            seeds = part["seed"].nunique() if "seed" in part.columns else 1
            table = part.groupby("step")["value"].agg(["mean", "std", "count"]).reset_index()
            if seeds > 1:
                figure.add_trace(_band(table, colour_of(index, 0.18), run), row=row, col=column)
            x, y = decimate(table["step"].to_numpy(), table["mean"].to_numpy())
            line = go.Scatter(
                x=x, y=y.astype("float32"), mode="lines" if len(x) > 2 else "lines+markers", legendgroup=run,
                name=(text(run) or "run") + (f" (n = {seeds})" if seeds > 1 else ""), line=style_of(index),
                showlegend=not named, hovertemplate="step %{x}: %{y:.4g}",
            )  # fmt: skip
            figure.add_trace(line, row=row, col=column)
            named = True
    more = f"{len(shown)} of {len(wanted)} metrics; names=(...) chooses others" if len(shown) < len(wanted) else ""
    with_legend = len(runs_of(frame)) > 1 or ("seed" in frame.columns and frame["seed"].nunique() > 1)
    layout(figure, height=110 + 290 * rows, title=more, legend=with_legend)
    for place, (row, column) in enumerate(places):
        values = frame[frame["what"] == shown[place]]["value"]
        margin = 0.06 * (float(values.max() - values.min()) or abs(float(values.max())) or 1.0)
        figure.update_xaxes(title_text="step", row=row, col=column)
        label = text(shown[place].split(" ", 1)[1])
        extent = [float(values.min()) - margin, float(values.max()) + margin]
        figure.update_yaxes(title_text=label, range=extent, row=row, col=column)
    return figure


def _band(table: pd.DataFrame, colour: str, run: str) -> go.Scatter:
    import plotly.graph_objects as go
    from scipy import stats

    table = table[table["count"] > 1]
    count = table["count"].to_numpy(float)
    reach = table["std"].to_numpy(float) / np.sqrt(count) * stats.t.ppf(0.975, count - 1)
    steps, mean = table["step"].to_numpy(), table["mean"].to_numpy(float)
    below, low = decimate(steps, mean - reach)
    above, high = decimate(steps, mean + reach)
    return go.Scatter(
        x=np.concatenate([below, above[::-1]]), y=np.concatenate([low, high[::-1]]).astype("float32"), mode="lines",
        fill="toself", fillcolor=colour, line={"width": 0}, hoverinfo="skip", showlegend=False, legendgroup=run,
    )  # fmt: skip
