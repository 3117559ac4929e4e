"""Weights of aggregated quantile models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wbench.plots._style import colour_of, empty, layout, of_run, require, runs_of, text

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

FEATURES = 2  # panels of weights over an input


def aggregation(frame: pd.DataFrame) -> go.Figure:
    """Draw weights by level and model, weights over the inputs that move them most, and how often targets lie below each level.

    Args:
        frame: Columns part, model, level, feature, x, stage, value, as `QuantileAggregation.observe` gives them; of several runs
            the first is drawn.

    Returns:
        A figure.

    Raises:
        DataError: If a column is missing.
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    require(frame, ("part", "model", "level", "feature", "x", "stage", "value"), "aggregation")
    if frame.empty:
        return empty("aggregation")
    frame = of_run(frame, next(iter(runs_of(frame))))
    parts = {name: frame[frame["part"] == name] for name in ("weight", "by_input", "below", "crossing")}
    models = [text(name) for name in dict.fromkeys(parts["weight"]["model"])]
    chosen = _moving(parts["by_input"])
    crossing = parts["crossing"].set_index("stage")["value"].to_dict()
    share = f"; rows that cross: {crossing['raw']:.1%}, after {crossing['final']:.1%}" if len(crossing) == 2 else ""
    titles = [
        "mean weight on test rows",
        f"share of targets below{share}",
        *(f"weight over input {f + 1}" for f in chosen),
    ]
    figure = make_subplots(
        rows=2 if chosen else 1, cols=2, subplot_titles=titles, horizontal_spacing=0.16, vertical_spacing=0.2
    )
    figure.update_annotations(font_size=13)
    wide = parts["weight"].pivot_table(index="model", columns="level", values="value", sort=False)
    figure.add_trace(
        go.Heatmap(
            x=[f"{level:g}" for level in wide.columns.to_numpy().round(4)], y=models, z=wide.to_numpy(), colorscale="Blues",
            zmin=0, zmax=float(wide.to_numpy().max()), colorbar={"x": 0.43, "y": 0.8 if chosen else 0.5, "len": 0.42 if chosen else 1.0, "thickness": 10},
            hovertemplate="%{y} at %{x}: %{z:.3f}<extra></extra>",
        ), row=1, col=1,
    )  # fmt: skip
    levels = sorted(parts["below"]["level"].unique())
    ideal = go.Scatter(x=levels, y=levels, mode="lines", line={"color": "#888888", "dash": "dot"}, name="right")
    figure.add_trace(ideal, row=1, col=2)
    for order, (stage, name) in enumerate((("raw", "before order and calibration"), ("final", "as predicted"))):
        part = parts["below"][parts["below"]["stage"] == stage]
        marker = {"color": colour_of(order), "symbol": ("circle-open", "x-thin-open")[order], "size": 8 + 2 * order}
        trace = go.Scatter(x=part["level"], y=part["value"], mode="markers", marker=marker, name=name)
        figure.add_trace(trace, row=1, col=2)
    for column, feature in enumerate(chosen, start=1):
        for order, name in enumerate(dict.fromkeys(parts["by_input"]["model"])):
            rows = parts["by_input"]
            part = rows[(rows["feature"] == feature) & (rows["model"] == name)].sort_values("x")
            trace = go.Scatter(
                x=part["x"], y=part["value"], mode="lines+markers", name=text(name), legendgroup=name,
                line={"color": colour_of(order), "width": 2}, showlegend=column == 1,
            )  # fmt: skip
            figure.add_trace(trace, row=2, col=column)
            figure.update_xaxes(title_text=f"input {feature + 1}", row=2, col=column)
    layout(figure, height=660 if chosen else 380)
    figure.update_xaxes(title_text="level", row=1)
    figure.update_xaxes(type="category", row=1, col=1)
    figure.update_yaxes(autorange="reversed", row=1, col=1)
    figure.update_yaxes(title_text="share", row=1, col=2)
    if chosen:
        figure.update_yaxes(title_text="weight", row=2, col=1)
        figure.update_yaxes(rangemode="tozero", row=2)
    return figure


def _moving(by_input: pd.DataFrame) -> list[int]:
    """Return the inputs over which weights vary most, in order."""
    if by_input.empty:
        return []
    spread = by_input.groupby(["feature", "model"])["value"].std().groupby("feature").sum()
    return sorted(int(feature) for feature in spread.nlargest(FEATURES).index)
