"""Metrics over training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from wbench.errors import DataError
from wbench.plots._axes import decimate
from wbench.plots._grid import Grid
from wbench.plots._style import MAX_PANELS, axes_of, colour_of, empty, of_run, require, runs_of, style_of, text

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


def smoothed(values: np.ndarray, weight: float) -> np.ndarray:
    """Return the exponential moving average of a series, free of the pull of its start (Adam's correction).

    s_t = (w s_{t-1} + (1 - w) x_t), shown as s_t / (1 - w^t); it is taken over the whole series, before points are left out.

    Args:
        values: (points,).
        weight: w, from 0 (the series itself) to below 1.

    Returns:
        (points,).
    """
    if weight == 0.0 or not len(values):
        return values
    from scipy.signal import lfilter

    average = lfilter([1.0 - weight], [1.0, -weight], values)
    return np.asarray(average / (1.0 - weight ** np.arange(1, len(values) + 1)))


def metrics(
    frame: pd.DataFrame,
    *,
    names: tuple[str, ...] | None = None,
    smooth: float = 0.0,
    seeds: Literal["interval", "lines"] = "interval",
    x: str = "step",
    columns: int = 2,
) -> go.Figure:
    """Draw metrics over steps, a panel a metric and split; several seeds of a run become their mean with a 95 % interval.

    The interval is Student's t over the seeds; the axes follow the seeds' own values, so that a wide interval of few seeds is
    cut off rather than hiding the lines.

    Args:
        frame: Columns step, split, name, value, and `run`, `seed` when there.
        names: Which, as `split name`; default: what was measured at more than one step.
        smooth: Weight of an exponential moving average, see `smoothed`; the line itself stays, fainter.
        seeds: `interval`, or `lines`: each seed as a line of its own.
        x: Column of the horizontal axis.
        columns: Panels side by side.

    Returns:
        A figure.

    Raises:
        DataError: If a column is missing, or `smooth` is none that is allowed.
    """
    require(frame, tuple(dict.fromkeys(("step", "split", "name", "value", x))), "metrics")
    if not 0.0 <= smooth < 1.0:
        raise DataError(f"plots.metrics: smooth={smooth!r} is not allowed; allowed: a number from 0 to below 1")
    frame = frame[np.isfinite(frame["value"].to_numpy(float))] if len(frame) else frame
    if frame.empty:
        return empty("metrics")
    frame = frame.assign(what=frame["split"] + " " + frame["name"])
    found = frame["what"].unique().tolist()
    several = [what for what in found if frame[frame["what"] == what]["step"].nunique() > 1]
    wanted = [what for what in (names or several or found) if what in found]
    if not wanted:
        return empty("metrics")
    shown = wanted[:MAX_PANELS]
    parts = {what: frame[frame["what"] == what] for what in shown}
    grid, traces = Grid(shown, columns=columns), []
    for run, index in runs_of(frame).items():
        named = False
        for place, what in enumerate(shown):
            for line in _lines(of_run(parts[what], run), run, index, smooth, seeds, x):
                line.showlegend = line.showlegend is not False and not named
                named = named or line.showlegend
                traces.append(line.update(axes_of(place)))
    more = f"{len(shown)} of {len(wanted)} metrics; names=(...) chooses others" if len(shown) < len(wanted) else ""
    with_legend = len(runs_of(frame)) > 1 or ("seed" in frame.columns and frame["seed"].nunique() > 1)
    for place, what in enumerate(shown):
        values = parts[what]["value"]
        margin = 0.06 * (float(values.max() - values.min()) or abs(float(values.max())) or 1.0)
        grid.axis("x", place, x)
        extent = [float(values.min()) - margin, float(values.max()) + margin]
        grid.axis("y", place, text(what.split(" ", 1)[1]), range=extent)
    return grid.figure(traces, height=110 + 290 * grid.rows, title=more, legend=with_legend)


def _lines(part: pd.DataFrame, run: str, index: int, smooth: float, seeds: str, x: str) -> list[go.Scatter]:
    # of one run in one panel: raw lines below, then the band, then the line that has the name
    import plotly.graph_objects as go

    if part.empty:
        return []
    part = part.sort_values("step", kind="stable")
    groups = [group for _, group in part.groupby("seed")] if "seed" in part.columns else [part]
    series = [group.groupby(x)["value"].mean() for group in groups]

    def line(values: pd.Series, name: str, style: dict[str, object], shown: bool = True) -> go.Scatter:
        points, heights = decimate(values.index.to_numpy(), values.to_numpy(float))
        how = f"<br>moving average, weight {smooth:g}" if smooth and shown else ""
        return go.Scatter(
            x=points, y=heights.astype("float32"), mode="lines" if len(points) > 2 else "lines+markers", legendgroup=run,
            name=name, line=style, showlegend=shown, hovertemplate=f"{x} %{{x}}: %{{y:.4g}}{how}",
            hoverinfo=None if shown else "skip",
        )  # fmt: skip

    style, name = style_of(index), text(run) or "run"
    faint = {**style, "color": colour_of(index, 0.3), "width": 1}
    raw = [line(one, name, faint, shown=False) for one in series] if smooth else []
    series = [type(one)(smoothed(one.to_numpy(float), smooth), index=one.index) for one in series]
    count = f" (n = {len(series)})" if len(series) > 1 else ""
    if seeds == "lines":
        return [*raw, *(line(one, name + count, {**style, "width": 1.5}) for one in series)]
    if len(series) == 1:
        return [*raw, line(series[0], name, style)]
    import pandas as pd

    table = pd.concat(series, axis=1)
    moments = pd.DataFrame({"mean": table.mean(axis=1), "std": table.std(axis=1), "count": table.count(axis=1)})
    band = _band(moments.reset_index(names="step"), colour_of(index, 0.18), run)
    return [band, line(moments["mean"], name + count, style)]


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
