"""Pictures of training: metrics, effective learning rates, subspaces, the loss landscape, intervals of checks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from wbench.plots._style import (
    DASHES,
    INK,
    PALETTE,
    decimate,
    empty,
    largest_layers,
    layout,
    of_run,
    panels,
    require,
    runs_of,
    style_of,
)

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

OUTCOMES = {
    "yes": ("holds", "circle", "#009E73"),
    "no": ("fails", "x", "#D55E00"),
    "undecided": ("undecided", "diamond-open", "#666666"),
}


def metrics(frame: pd.DataFrame, *, names: tuple[str, ...] | None = None) -> go.Figure:
    """Draw metrics over steps, a panel a metric and split; several seeds of a run become their mean with a 95 % band.

    Args:
        frame: Columns step, split, name, value, and `run`, `seed` when there.
        names: Which, as `split name`; default: the training loss and whatever was measured on validation or phases.

    Returns:
        A figure.
    """
    import plotly.graph_objects as go

    require(frame, ("step", "split", "name", "value"), "metrics")
    frame = frame[frame["value"].notna()] if len(frame) else frame
    if frame.empty:
        return empty("metrics")
    frame = frame.assign(what=frame["split"] + " " + frame["name"])
    found = list(dict.fromkeys(frame["what"]))
    several = [what for what in found if frame[frame["what"] == what]["step"].nunique() > 1]
    wanted = [what for what in (names or several or found) if what in found][:4]
    figure, places, rows = panels(wanted, columns=2)
    for index, run in enumerate(runs_of(frame)):
        for place, what in enumerate(wanted):
            part = of_run(frame[frame["what"] == what], run)
            seeds = part["seed"].nunique() if "seed" in part.columns else 1
            table = part.groupby("step")["value"].agg(["mean", "std", "count"]).reset_index()
            x, y = decimate(table["step"].to_numpy(), table["mean"].to_numpy())
            row, column = places[place]
            name = (run or "run") + (f" (n = {seeds})" if seeds > 1 else "")
            if seeds > 1:
                reach = _reach(table)
                bx, low = decimate(table["step"].to_numpy(), (table["mean"] - reach).to_numpy())
                tx, high = decimate(table["step"].to_numpy(), (table["mean"] + reach).to_numpy())
                colour = _clear(PALETTE[index % len(PALETTE)])
                outline = {"x": np.concatenate([bx, tx[::-1]]), "y": np.concatenate([low, high[::-1]])}
                band = go.Scatter(
                    **outline,
                    fill="toself",
                    fillcolor=colour,
                    line={"width": 0},
                    hoverinfo="skip",
                    showlegend=False,
                    legendgroup=run,
                )
                figure.add_trace(band, row=row, col=column)
            figure.add_trace(
                go.Scatter(
                    x=x, y=y.astype("float32"), mode="lines" if len(x) > 2 else "lines+markers", name=name, legendgroup=run,
                    line=style_of(index), showlegend=place == 0, hovertemplate="step %{x}: %{y:.4g}",
                ),
                row=row, col=column,
            )  # fmt: skip
    layout(figure, height=110 + 290 * rows, legend=len(runs_of(frame)) > 1)
    for place, (row, column) in enumerate(places):
        figure.update_xaxes(title_text="step", row=row, col=column)
        figure.update_yaxes(title_text=wanted[place].split(" ", 1)[1], row=row, col=column)
    return figure


def effective_lr(frame: pd.DataFrame, *, layer: str | None = None) -> go.Figure:
    """Draw how far a step moves each weight, relative to it, and the effective rate where a norm follows.

    Args:
        frame: From `probes.effective_lr`, with `step`, and `run` when there.
        layer: Which; default: the first six.

    Returns:
        A figure.
    """
    import plotly.graph_objects as go

    require(frame, ("step", "layer", "relative_update", "effective_lr"), "effective_lr")
    if frame.empty:
        return empty("effective_lr")
    layers, runs = largest_layers(frame, layer), runs_of(frame)
    has_rate = bool(frame["effective_lr"].notna().any())
    titles = ["relative update: |step| / |weight|"] + (
        ["effective learning rate, where a norm follows"] if has_rate else []
    )
    figure, places, rows = panels(titles, columns=1)
    for index, run in enumerate(runs):
        for order, name in enumerate(layers):
            part = of_run(frame[frame["layer"] == name], run).sort_values("step")
            colour = index if len(runs) > 1 else order
            dash = order if len(runs) > 1 else 0
            line = {"color": PALETTE[colour % len(PALETTE)], "dash": DASHES[dash % len(DASHES)], "width": 2}
            label = f"{run}: {name}" if run else name
            for place, column in enumerate(["relative_update", "effective_lr"][: len(titles)]):
                values = part[part[column].notna() & (part[column] > 0)]
                if len(values):
                    x, y = decimate(values["step"].to_numpy(), values[column].to_numpy())
                    shown = place == 0
                    trace = go.Scatter(
                        x=x,
                        y=y.astype("float32"),
                        mode="lines+markers",
                        marker={"size": 4},
                        name=label,
                        legendgroup=label,
                        line=line,
                        showlegend=shown,
                        hovertemplate="step %{x}: %{y:.3g}",
                    )
                    figure.add_trace(trace, row=places[place][0], col=1)
    layout(figure, height=110 + 290 * rows)
    figure.update_xaxes(title_text="step", row=rows, col=1)
    figure.update_yaxes(type="log", exponentformat="power")
    figure.update_yaxes(title_text="share a step", row=1, col=1)
    if has_rate:
        figure.update_yaxes(title_text="rate", row=2, col=1)
    return figure


def subspace(frame: pd.DataFrame) -> go.Figure:
    """Draw, per layer, how much of the gradient a subspace keeps and how much it shares with the one before.

    Args:
        frame: Columns step, layer, overlap, energy_share, stable_rank, and `run` when there.

    Returns:
        A figure.
    """
    import plotly.graph_objects as go

    require(frame, ("step", "layer", "overlap", "energy_share"), "subspace")
    if frame.empty:
        return empty("subspace")
    titles = ["share of the gradient's energy in the subspace", "overlap with the subspace before"]
    figure, _, _ = panels(titles, columns=1)
    for order, name in enumerate(largest_layers(frame, None)):
        part = frame[frame["layer"] == name].sort_values("step")
        for row, column in ((1, "energy_share"), (2, "overlap")):
            trace = go.Scatter(
                x=part["step"],
                y=part[column].to_numpy("float32"),
                mode="lines+markers",
                name=name or "weight",
                legendgroup=name,
                line=style_of(order),
                showlegend=row == 1,
                hovertemplate="step %{x}: %{y:.3f}",
            )
            figure.add_trace(trace, row=row, col=1)
    layout(figure, height=560)
    figure.update_xaxes(title_text="step", row=2, col=1)
    figure.update_yaxes(range=[-0.03, 1.05], title_text="share")
    return figure


def landscape(frame: pd.DataFrame) -> go.Figure:
    """Draw the loss along one direction (a line a run) or over two (contours a run).

    Args:
        frame: From `probes.landscape`, with `run` when there.

    Returns:
        A figure.
    """
    import plotly.graph_objects as go

    require(frame, ("alpha", "beta", "loss"), "landscape")
    if frame.empty:
        return empty("landscape")
    runs = runs_of(frame)
    if frame["beta"].nunique() == 1:
        figure, _, _ = panels([""], columns=1)
        for index, run in enumerate(runs):
            part = of_run(frame, run).sort_values("alpha")
            figure.add_trace(
                go.Scatter(
                    x=part["alpha"],
                    y=part["loss"],
                    mode="lines+markers",
                    marker={"size": 4},
                    name=run or "loss",
                    line=style_of(index),
                    hovertemplate="%{x:.2f}: %{y:.4g}",
                )
            )
        layout(figure, height=400, legend=len(runs) > 1)
        figure.update_xaxes(title_text="distance along a filter-normalised direction")
        figure.update_yaxes(title_text="loss", type="log" if float(frame["loss"].min()) > 0 else "linear")
        return figure
    figure, places, rows = panels([run or "loss" for run in runs], columns=3)
    finite = np.log10(frame["loss"][np.isfinite(frame["loss"]) & (frame["loss"] > 0)])
    low, high = float(finite.min()), float(finite.max())
    ticks = np.linspace(low, high, 5)
    for place, run in enumerate(runs):
        table = of_run(frame, run).pivot(index="beta", columns="alpha", values="loss")
        z = np.log10(np.maximum(table.to_numpy(float), 10**low))
        bar: dict[str, Any] = {
            "title": {"text": "loss"},
            "tickvals": ticks,
            "ticktext": [f"{10**tick:.2g}" for tick in ticks],
        }
        contour = go.Contour(
            x=table.columns, y=table.index, z=z, colorscale="Viridis", zmin=low, zmax=high, showscale=place == 0, colorbar=bar,
            customdata=table.to_numpy(float), hovertemplate="(%{x:.2f}, %{y:.2f}): %{customdata:.4g}<extra></extra>",
        )  # fmt: skip
        figure.add_trace(contour, row=places[place][0], col=places[place][1])
    layout(figure, height=100 + 320 * rows, legend=False)
    figure.update_xaxes(title_text="direction 1")
    figure.update_yaxes(title_text="direction 2", col=1)
    return figure


def intervals(frame: pd.DataFrame) -> go.Figure:
    """Draw each check's estimate with its interval and threshold, a panel a check, as units differ.

    Args:
        frame: Columns label, estimate, low, high, threshold, passed, unit, and `arm_role`, `gate`, `direction` when there.

    Returns:
        A figure.
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    require(frame, ("label", "estimate", "low", "high", "threshold", "passed", "unit"), "intervals")
    if frame.empty:
        return empty("intervals")
    labels = list(dict.fromkeys(frame["label"]))
    figure = make_subplots(
        rows=len(labels), cols=1, subplot_titles=labels, vertical_spacing=min(0.2, 0.62 / len(labels))
    )
    figure.update_annotations(x=0.0, xanchor="left", font_size=13)
    for row, label in enumerate(labels, start=1):
        part = frame[frame["label"] == label]
        for item in part.to_dict("records"):
            word, symbol, colour = OUTCOMES[str(item["passed"])]
            role = str(item.get("arm_role", "method"))
            error = {
                "type": "data",
                "symmetric": False,
                "array": [item["high"] - item["estimate"]],
                "arrayminus": [item["estimate"] - item["low"]],
                "thickness": 2,
                "width": 6,
                "color": colour,
            }
            text = f"{role}: {item['estimate']:.3g} [{item['low']:.3g}, {item['high']:.3g}] {item['unit']}, {word}"
            figure.add_trace(
                go.Scatter(x=[item["estimate"]], y=[role], error_x=error, mode="markers", marker={"symbol": symbol, "size": 11, "color": colour}, name=word, showlegend=False, hovertemplate=f"{text}<extra></extra>"),
                row=row, col=1,
            )  # fmt: skip
        threshold = float(part["threshold"].iloc[0])
        direction = str(part["direction"].iloc[0]) if "direction" in part.columns else ""
        axis = "" if row == 1 else str(row)
        figure.add_shape(
            type="line",
            x0=threshold,
            x1=threshold,
            y0=0,
            y1=1,
            xref=f"x{axis}",
            yref=f"y{axis} domain",
            line={"color": INK, "dash": "dash", "width": 1.5},
        )
        unit = str(part["unit"].iloc[0])
        figure.update_xaxes(
            title_text=f"needed: {direction} {threshold:g} {unit}".strip(),
            title_font_size=12,
            title_standoff=4,
            row=row,
            col=1,
        )
        figure.update_yaxes(
            type="category",
            range=[-0.6, part["arm_role"].nunique() - 0.4] if "arm_role" in part.columns else None,
            row=row,
            col=1,
        )
    for word, symbol, colour in OUTCOMES.values():
        figure.add_trace(
            go.Scatter(
                x=[None], y=[None], mode="markers", marker={"symbol": symbol, "size": 10, "color": colour}, name=word
            ),
            row=1,
            col=1,
        )
    layout(figure, height=100 + 150 * len(labels))
    return figure


def _reach(table: pd.DataFrame) -> pd.Series:
    from scipy import stats

    count = table["count"].clip(lower=2)
    return (table["std"].fillna(0.0) / np.sqrt(count) * stats.t.ppf(0.975, count - 1)).astype(float)


def _clear(colour: str) -> str:
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.18)"


def plasticity(frame: pd.DataFrame) -> go.Figure:
    """Draw effective learning rates over a stream of tasks, and below them the accuracy at each task's end.

    Args:
        frame: Columns arm, table (`metrics` or `effective_lr`) and those of the two tables; the mean over seeds is drawn.

    Returns:
        A figure.
    """
    import plotly.graph_objects as go

    require(frame, ("arm", "table", "step"), "plasticity")
    if frame.empty:
        return empty("plasticity")
    figure, _, _ = panels(
        ["effective learning rate, mean over normalised layers", "accuracy on a task when it ends"], columns=1
    )
    metrics_rows = frame[
        (frame["table"] == "metrics") & (frame["name"] == "accuracy") & (frame["split"] == frame["phase"])
    ]
    rates = (
        frame[(frame["table"] == "effective_lr") & (frame["effective_lr"].notna())]
        if "effective_lr" in frame
        else frame[:0]
    )
    for index, arm in enumerate(dict.fromkeys(metrics_rows["arm"])):
        for row, part, column in ((1, rates, "effective_lr"), (2, metrics_rows, "value")):
            mean = part[(part["arm"] == arm) & (part["step"] > 0)].groupby("step")[column].mean()
            if len(mean):
                shown = not any(trace.name == arm for trace in figure.data)
                trace = go.Scatter(
                    x=mean.index.to_numpy(),
                    y=mean.to_numpy("float32"),
                    mode="lines",
                    name=arm,
                    legendgroup=arm,
                    line=style_of(index),
                    showlegend=shown,
                    hovertemplate="step %{x}: %{y:.4g}",
                )
                figure.add_trace(trace, row=row, col=1)
    layout(figure, height=600)
    figure.update_xaxes(title_text="step", row=2, col=1)
    figure.update_yaxes(title_text="rate", type="log", row=1, col=1)
    figure.update_yaxes(title_text="accuracy (share)", range=[0, 1.03], row=2, col=1)
    return figure
