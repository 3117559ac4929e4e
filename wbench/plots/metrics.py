"""Metrics over training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from wbench.errors import DataError
from wbench.plots._axes import decimate, points_each
from wbench.plots._grid import Grid, line
from wbench.plots._style import (
    MAX_PANELS,
    axes_of,
    codes_of,
    colour_of,
    empty,
    require,
    runs_of,
    style_of,
    text,
)

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

    Lines have at most 1,000 points, fewer where more than four share a panel; the extremes of each stretch are kept. The interval is
    Student's t over the seeds; the axes follow the seeds' own values, so that a wide interval of few seeds is
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
    table = None if frame.empty else _Table(frame, x)
    if table is None or not len(table.values):
        return empty("metrics")
    wanted = [what for what in (names or table.repeated() or table.whats) if what in table.whats]
    if not wanted:
        return empty("metrics")
    shown, runs = wanted[:MAX_PANELS], runs_of(frame)
    grid, traces = Grid(shown, columns=columns), []
    limit = points_each(len(runs) * (table.seeds if seeds == "lines" else 1))
    for run, index in runs.items():
        named = False
        for place, what in enumerate(shown):
            for drawn in _lines(table.series(what, run), run, index, smooth, seeds, x, limit):
                drawn["showlegend"] = drawn["showlegend"] and not named
                named = named or drawn["showlegend"]
                traces.append({**drawn, **axes_of(place)})
    more = f"{len(shown)} of {len(wanted)} metrics; names=(...) chooses others" if len(shown) < len(wanted) else ""
    with_legend = len(runs) > 1 or table.seeds > 1
    for place, what in enumerate(shown):
        values = table.of(what)
        margin = 0.06 * (float(values.max() - values.min()) or abs(float(values.max())) or 1.0)
        grid.axis("x", place, x)
        extent = [float(values.min()) - margin, float(values.max()) + margin]
        grid.axis("y", place, text(what.split(" ", 1)[1]), range=extent)
    return grid.figure(traces, height=110 + 290 * grid.rows, title=more, legend=with_legend)


def whats_of(frame: pd.DataFrame) -> tuple[np.ndarray, list[str]]:
    """Return what each row of metrics measures.

    Args:
        frame: Columns split, name.

    Returns:
        A number a row, and the `split name` of each number, in the order of their first rows.
    """
    import pandas as pd

    (splits, split_names), (names, known) = codes_of(frame["split"]), codes_of(frame["name"])
    what, order = pd.factorize(splits.astype(np.int64) * len(known) + names)
    return what, [f"{split_names[code // len(known)]} {known[code % len(known)]}" for code in order]


class _Table:
    # the table as numbers: names as codes, so that a part of it is found without comparing text
    def __init__(self, frame: pd.DataFrame, x: str) -> None:
        finite = np.isfinite(frame["value"].to_numpy(float))
        frame = frame if finite.all() else frame[finite]
        self.values, self._steps, self._x = (
            frame["value"].to_numpy(float),
            frame["step"].to_numpy(),
            frame[x].to_numpy(),
        )
        self._what, self.whats = whats_of(frame)
        self._runs: list[str] = []
        self._run: np.ndarray | None = None
        if "run" in frame.columns:
            self._run, self._runs = codes_of(frame["run"])
        self._seed = frame["seed"].to_numpy() if "seed" in frame.columns else None
        self.seeds = len(np.unique(self._seed)) if self._seed is not None and len(self._seed) else 1

    def of(self, what: str) -> np.ndarray:
        return self.values[self._what == self.whats.index(what)]

    def repeated(self) -> list[str]:
        # what was measured at more than one step
        steps = (self._steps[self._what == place] for place in range(len(self.whats)))
        return [what for what, own in zip(self.whats, steps, strict=True) if (own != own[0]).any()]

    def series(self, what: str, run: str) -> list[tuple[np.ndarray, np.ndarray]]:
        # one a seed: places, ascending, and the mean of the values at each
        rows = self._what == self.whats.index(what)
        if self._run is not None:
            rows &= self._run == self._runs.index(run)
        index = np.flatnonzero(rows)
        if self._seed is None:
            return [self._one(index)] if len(index) else []
        seeds = self._seed[index]
        return [self._one(index[seeds == seed]) for seed in np.unique(seeds)]

    def _one(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        places, values = self._x[index], self.values[index]
        if len(places) < 2 or (np.diff(places) > 0).all():
            return places, values
        places, inverse, count = np.unique(places, return_inverse=True, return_counts=True)
        return places, np.bincount(inverse, values) / count


def _lines(
    series: list[tuple[np.ndarray, np.ndarray]], run: str, index: int, smooth: float, seeds: str, x: str, limit: int
) -> list[dict[str, Any]]:
    # of one run in one panel: raw lines below, then the band, then the line that has the name
    if not series:
        return []

    def drawn(
        places: np.ndarray, values: np.ndarray, name: str, style: dict[str, object], shown: bool = True
    ) -> dict[str, Any]:
        points, heights = decimate(places, values, limit)
        how = f"<br>moving average, weight {smooth:g}" if smooth and shown else ""
        return line(
            x=points, y=heights.astype("float32"), mode="lines" if len(points) > 2 else "lines+markers", legendgroup=run,
            name=name, line=style, showlegend=shown, hovertemplate=f"{x} %{{x}}: %{{y:.4g}}{how}",
            hoverinfo=None if shown else "skip",
        )  # fmt: skip

    style, name = style_of(index), text(run) or "run"
    faint = {**style, "color": colour_of(index, 0.3), "width": 1}
    raw = [drawn(*one, name, faint, shown=False) for one in series] if smooth else []
    series = [(places, smoothed(values, smooth)) for places, values in series]
    count = f" (n = {len(series)})" if len(series) > 1 else ""
    if seeds == "lines":
        return [*raw, *(drawn(*one, name + count, {**style, "width": 1.5}) for one in series)]
    if len(series) == 1:
        return [*raw, drawn(*series[0], name, style)]
    places, mean, deviation, number = _moments(series)
    band = _band(places, mean, deviation, number, colour_of(index, 0.18), run, limit)
    return [band, drawn(places, mean, name + count, style)]


def _moments(series: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    # places that any seed has; mean, deviation and number of the seeds that have each
    places = np.unique(np.concatenate([own for own, _ in series]))
    table = np.full((len(series), len(places)), np.nan)
    for row, (own, values) in zip(table, series, strict=True):
        row[np.searchsorted(places, own)] = values
    there = ~np.isnan(table)
    number = there.sum(axis=0)
    mean = np.where(there, table, 0.0).sum(axis=0) / number
    square = np.where(there, table - mean, 0.0) ** 2
    return places, mean, np.sqrt(square.sum(axis=0) / np.maximum(number - 1, 1)), number


def _band(
    places: np.ndarray, mean: np.ndarray, deviation: np.ndarray, number: np.ndarray, colour: str, run: str, limit: int
) -> dict[str, Any]:
    from scipy import stats

    several = number > 1
    places, mean, count = places[several], mean[several], number[several].astype(float)
    reach = deviation[several] / np.sqrt(count) * stats.t.ppf(0.975, count - 1)
    below, low = decimate(places, mean - reach, limit)
    above, high = decimate(places, mean + reach, limit)
    return line(
        x=np.concatenate([below, above[::-1]]), y=np.concatenate([low, high[::-1]]).astype("float32"), mode="lines",
        fill="toself", fillcolor=colour, line={"width": 0}, hoverinfo="skip", showlegend=False, legendgroup=run,
    )  # fmt: skip
