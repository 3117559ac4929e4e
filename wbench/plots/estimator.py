"""The gradient estimator of a sign, and where the weights lie under it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wbench.plots._steps import at_step, steps_of, with_steps
from wbench.plots._style import INK, colour_of, empty, layers_of, layout, panels, require, style_of, text

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


def estimator(frame: pd.DataFrame, *, layer: str | None = None) -> go.Figure:
    """Draw the function whose slope stands in for the sign's, and the slope over the latent weights' density, over steps.

    Args:
        frame: Columns layer, x, estimate, slope, density, and `step` when there.
        layer: Which; default: the first.

    Returns:
        A figure.

    Raises:
        DataError: If a column is missing or there is no such layer.
    """
    import plotly.graph_objects as go

    require(frame, ("layer", "x", "estimate", "slope", "density"), "estimator")
    if frame.empty:
        return empty("estimator")
    name = layers_of(frame, layer)[0]
    frame = frame[frame["layer"] == name]
    figure, _, _ = panels(["the function that the gradient follows", "its slope, over the latent weights"], columns=1)

    def traces_at(step: int) -> list[Any]:
        part = at_step(frame, step)
        x, sign = part["x"].to_numpy("float32"), (part["x"] >= 0).to_numpy("float32") * 2 - 1
        fill = {"fill": "tozeroy", "fillcolor": colour_of(1, 0.25), "line": style_of(1)}
        return [
            go.Scatter(x=x, y=sign, mode="lines", name="sign", line={"color": INK, "dash": "dot"}, xaxis="x", yaxis="y"),
            go.Scatter(x=x, y=part["estimate"].to_numpy("float32"), mode="lines", name="estimate", line=style_of(0), xaxis="x", yaxis="y"),
            go.Scatter(x=x, y=part["slope"].to_numpy("float32"), mode="lines", name="slope", line=style_of(2), xaxis="x2", yaxis="y2"),
            go.Scatter(x=x, y=part["density"].to_numpy("float32"), mode="lines", name="density of weights", xaxis="x2", yaxis="y2", **fill),
        ]  # fmt: skip

    layout(figure, height=600, title=f"layer {text(name)}")
    with_steps(figure, steps_of(frame), traces_at)
    high = 1.05 * float(max(frame["slope"].max(), frame["density"].max()))
    figure.update_yaxes(title_text="value", row=1, col=1)
    figure.update_yaxes(title_text="slope; density", range=[0, high], row=2, col=1)
    figure.update_xaxes(title_text="latent weight", row=2, col=1)
    return figure


def equilibrium(frame: pd.DataFrame) -> go.Figure:
    """Draw estimating error against instability of the gradients, one point an arm, coloured by accuracy.

    Args:
        frame: Columns arm, seed, table, step, split, name, value: the metrics of the arms' runs.

    Returns:
        A figure; the two indicators are means over the last tenth of training and over seeds.

    Raises:
        DataError: If a column is missing.
    """
    import plotly.graph_objects as go

    require(frame, ("arm", "table", "step", "split", "name", "value"), "equilibrium")
    rows = frame[frame["table"] == "metrics"] if len(frame.columns) else frame
    if rows.empty:
        return empty("equilibrium")
    logged = rows[rows["name"].isin(["estimating_error", "instability"])]
    if logged.empty:
        return empty("equilibrium")
    late = logged[logged["step"] >= 0.9 * logged["step"].max()]
    means = late.groupby(["arm", "name"])["value"].mean().unstack()
    accuracy = rows[(rows["name"] == "accuracy") & (rows["split"] == "test")].groupby("arm")["value"].mean()
    order = [arm for arm in dict.fromkeys(rows["arm"]) if arm in means.index]
    means = means.loc[order].dropna()
    figure = go.Figure()
    figure.add_trace(
        go.Scatter(
            x=means["estimating_error"], y=means["instability"], mode="markers+text", text=[text(arm) for arm in means.index],
            textposition="top center", hovertemplate="%{text}: error %{x:.4g}, instability %{y:.3g}<extra></extra>", showlegend=False,
            marker={
                "size": 16, "color": accuracy.reindex(means.index), "colorscale": "Cividis", "line": {"color": INK, "width": 1},
                "colorbar": {"title": {"text": "test accuracy"}, "tickformat": ".2f"},
            },
        )
    )  # fmt: skip
    layout(figure, height=480, legend=False)
    figure.update_xaxes(title_text="estimating error (norm, sum over layers)", rangemode="tozero")
    figure.update_yaxes(title_text="gradient instability (variance)", type="log", exponentformat="power")
    return figure
