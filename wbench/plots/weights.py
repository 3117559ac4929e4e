"""Pictures of weights: histograms, spectra, and what one method does to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from wbench.plots._style import (
    PALETTE,
    SIGNED,
    axes_of,
    empty,
    largest_layers,
    layout,
    of_run,
    panels,
    require,
    runs_of,
    style_of,
    with_steps,
)

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


def rebin(left: np.ndarray, right: np.ndarray, count: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return counts on other bins, each bin's mass spread evenly over it; the mass is kept.

    Args:
        left: Left ends, increasing.
        right: Right ends.
        count: Counts.
        edges: New increasing edges, which cover the old ones.

    Returns:
        (len(edges) - 1,).
    """
    ends = np.concatenate([left[:1], right])
    mass = np.concatenate([[0.0], np.cumsum(count)])
    return np.diff(np.interp(edges, ends, mass))


def histogram(frame: pd.DataFrame, *, layer: str | None = None, bins: int = 80) -> go.Figure:
    """Draw the density of weights, layer by layer; runs share bins and axes, a slider scrubs the steps.

    Args:
        frame: From `probes.histogram`; `step` and `run` columns are used when there.
        layer: One layer; default: the first six.
        bins: Bins of the picture.

    Returns:
        A figure.
    """
    import plotly.graph_objects as go

    require(frame, ("layer", "bin_left", "bin_right", "count"), "histogram")
    if frame.empty:
        return empty("histogram")
    layers, runs = largest_layers(frame, layer), runs_of(frame)
    figure, places, rows = panels(layers)
    edges: dict[str, np.ndarray] = {}
    peaks: dict[str, float] = dict.fromkeys(layers, 0.0)
    for name in layers:
        part = frame[frame["layer"] == name]
        edges[name] = np.linspace(part["bin_left"].min(), part["bin_right"].max(), bins + 1)

    def traces_at(step: int) -> list[Any]:
        traces = []
        for place, name in enumerate(layers):
            for index, run in enumerate(runs):
                part = _at(of_run(frame[frame["layer"] == name], run), step)
                density = np.zeros(bins)
                if len(part):
                    left, right, count = (part[key].to_numpy(float) for key in ("bin_left", "bin_right", "count"))
                    counts = rebin(left, right, count, edges[name])
                    density = counts / max(counts.sum(), 1.0) / np.diff(edges[name])
                peaks[name] = max(peaks[name], float(density.max()))
                x = np.repeat(edges[name], 2)[1:-1]
                line = {**style_of(index), "shape": "hv"}
                traces.append(go.Scatter(
                    x=x.astype("float32"), y=np.repeat(density, 2).astype("float32"), mode="lines", name=run or "weights", legendgroup=run,
                    line=line, fill="tozeroy" if len(runs) == 1 else None, fillcolor="rgba(0,114,178,0.25)", showlegend=place == 0,
                    hovertemplate="weight %{x:.4g}<br>density %{y:.4g}", **axes_of(place),
                ))  # fmt: skip
        return traces

    layout(figure, height=100 + 270 * rows, legend=len(runs) > 1)
    with_steps(figure, _steps(frame), traces_at)
    for place, (row, column) in enumerate(places):
        low, high = edges[layers[place]][[0, -1]]
        figure.update_xaxes(title_text="weight", range=[low, high], row=row, col=column)
        figure.update_yaxes(
            title_text="density" if column == 1 else "", range=[0, 1.05 * peaks[layers[place]]], row=row, col=column
        )
    return figure


def spectrum(frame: pd.DataFrame, *, layer: str | None = None) -> go.Figure:
    """Draw singular values against their index, layer by layer; runs side by side, a slider scrubs the steps.

    Args:
        frame: From `probes.spectrum`; `step` and `run` columns are used when there.
        layer: One layer; default: the first six.

    Returns:
        A figure.
    """
    import plotly.graph_objects as go

    require(frame, ("layer", "index", "singular_value", "stable_rank"), "spectrum")
    if frame.empty:
        return empty("spectrum")
    layers, runs = largest_layers(frame, layer), runs_of(frame)
    figure, places, rows = panels(layers)
    top = frame["singular_value"].to_numpy(float)
    floor = max(float(top.max()) * 1e-6, 1e-12)

    def traces_at(step: int) -> list[Any]:
        traces = []
        for place, name in enumerate(layers):
            for index, run in enumerate(runs):
                part = _at(of_run(frame[frame["layer"] == name], run), step).sort_values("index")
                rank = float(part["stable_rank"].iloc[0]) if len(part) else float("nan")
                values = np.maximum(part["singular_value"].to_numpy(float), floor)
                traces.append(go.Scatter(
                    x=part["index"].to_numpy(), y=values.astype("float32"), mode="lines", name=run or "singular values", legendgroup=run,
                    line=style_of(index), showlegend=place == 0, **axes_of(place),
                    hovertemplate=f"index %{{x}}<br>singular value %{{y:.4g}}<br>stable rank {rank:.3g}",
                ))  # fmt: skip
        return traces

    layout(figure, height=100 + 270 * rows, legend=len(runs) > 1)
    with_steps(figure, _steps(frame), traces_at)
    for place, (row, column) in enumerate(places):
        part = frame[frame["layer"] == layers[place]]["singular_value"].to_numpy(float)
        low, high = (
            max(part[part > 0].min(initial=floor * 10), floor) if (part > 0).any() else floor,
            max(part.max(), floor * 10),
        )
        figure.update_xaxes(title_text="index", row=row, col=column)
        figure.update_yaxes(title_text="singular value" if column == 1 else "", type="log", row=row, col=column)
        figure.update_yaxes(range=[np.log10(max(low, high * 1e-4)) - 0.1, np.log10(high) + 0.1], row=row, col=column)
    return figure


def companding(frame: pd.DataFrame, *, layer: str | None = None) -> go.Figure:
    """Draw the function w = f(v) between the histogram of v (below) and of w (left), one layer at a time.

    Args:
        frame: Columns layer, v, w, density_v, density_w, and `step` when there.
        layer: Which; default: the first.

    Returns:
        A figure.
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    require(frame, ("layer", "v", "w", "density_v", "density_w"), "companding")
    if frame.empty:
        return empty("companding")
    name = largest_layers(frame, layer)[0]
    frame = frame[frame["layer"] == name]
    figure = make_subplots(
        rows=2, cols=2, column_widths=[0.25, 0.75], row_heights=[0.72, 0.28], shared_xaxes="columns", shared_yaxes="rows",
        horizontal_spacing=0.03, vertical_spacing=0.05,
    )  # fmt: skip

    def traces_at(step: int) -> list[Any]:
        part = _at(frame, step).sort_values("v")
        fill = {"mode": "lines", "fillcolor": "rgba(213,94,0,0.25)", "line": {"color": PALETTE[1], "width": 2}}
        blue = {"mode": "lines", "fillcolor": "rgba(0,114,178,0.25)", "line": {"color": PALETTE[0], "width": 2}}
        v, w = part["v"].to_numpy("float32"), part["w"].to_numpy("float32")
        return [
            go.Scatter(
                x=part["density_w"].to_numpy("float32"),
                y=w,
                fill="tozerox",
                name="weights w",
                xaxis="x",
                yaxis="y",
                **fill,
            ),
            go.Scatter(
                x=v, y=w, mode="lines", line={"color": "#222", "width": 3}, name="w = f(v)", xaxis="x2", yaxis="y2"
            ),
            go.Scatter(
                x=v, y=v, mode="lines", line={"color": "#888", "dash": "dot"}, name="identity", xaxis="x2", yaxis="y2"
            ),
            go.Scatter(
                x=v,
                y=part["density_v"].to_numpy("float32"),
                fill="tozeroy",
                name="trained v",
                xaxis="x4",
                yaxis="y4",
                **blue,
            ),
        ]

    layout(figure, height=520, title=f"layer {name}")
    with_steps(figure, _steps(frame), traces_at)
    reach_v, reach_w = (1.05 * float(frame[key].abs().max()) for key in ("v", "w"))
    high_v, high_w = (1.05 * float(frame[key].max()) for key in ("density_v", "density_w"))
    figure.update_xaxes(title_text="density of w", range=[high_w, 0], row=1, col=1, showticklabels=True)
    figure.update_yaxes(title_text="weight w", range=[-reach_w, reach_w], row=1, col=1)
    figure.update_yaxes(range=[-reach_w, reach_w], row=1, col=2)
    figure.update_xaxes(range=[-reach_v, reach_v], row=1, col=2)
    figure.update_xaxes(title_text="trained value v", range=[-reach_v, reach_v], row=2, col=2)
    figure.update_yaxes(title_text="density of v", range=[0, high_v], row=2, col=2)
    figure.update_xaxes(visible=False, row=2, col=1)
    figure.update_yaxes(visible=False, row=2, col=1)
    return figure


def delta(frame: pd.DataFrame, *, layer: str | None = None) -> go.Figure:
    """Draw the change of weights as heat maps, blue below and orange above zero.

    Args:
        frame: Columns layer, row, col, value, and `step` when there.
        layer: Which; default: the first two.

    Returns:
        A figure.
    """
    import plotly.graph_objects as go

    require(frame, ("layer", "row", "col", "value"), "delta")
    if frame.empty:
        return empty("delta")
    layers = largest_layers(frame, layer)[:2]
    figure, places, _ = panels([f"{name}: W' - W" for name in layers], columns=2)
    reach = float(frame["value"].abs().max()) or 1.0

    def traces_at(step: int) -> list[Any]:
        traces = []
        for place, name in enumerate(layers):
            table = _at(frame[frame["layer"] == name], step).pivot(index="row", columns="col", values="value")
            traces.append(go.Heatmap(
                z=table.to_numpy("float32"), colorscale=SIGNED, zmin=-reach, zmax=reach, showscale=place == 0,
                colorbar={"title": {"text": "change"}}, hovertemplate="out %{y}, in %{x}: %{z:.4g}<extra></extra>", **axes_of(place),
            ))  # fmt: skip
        return traces

    layout(figure, height=470, legend=False)
    with_steps(figure, _steps(frame), traces_at)
    for row, column in places:
        figure.update_xaxes(title_text="input", row=row, col=column, showgrid=False)
        figure.update_yaxes(
            title_text="output" if column == 1 else "", autorange="reversed", row=row, col=column, showgrid=False
        )
    return figure


def _steps(frame: pd.DataFrame, limit: int = 21) -> list[int]:
    if "step" not in frame.columns:
        return [0]
    steps = sorted(int(step) for step in frame["step"].unique())
    if len(steps) <= limit:
        return steps
    return [steps[index] for index in sorted({round(place) for place in np.linspace(0, len(steps) - 1, limit)})]


def _at(frame: pd.DataFrame, step: int) -> pd.DataFrame:
    """Return the rows of the nearest earlier step, the first where there is none."""
    if "step" not in frame.columns or frame.empty:
        return frame
    steps = frame["step"].to_numpy()
    earlier = steps[steps <= step]
    return frame[frame["step"] == (earlier.max() if len(earlier) else steps.min())]
