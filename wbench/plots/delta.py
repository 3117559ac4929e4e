"""Where a weight changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wbench.plots._steps import at_step, steps_of, with_steps
from wbench.plots._style import SIGNED, axes_of, empty, layers_of, layout, panels, require

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

MAX_SHOWN = 128
MAX_STEPS = 11


def delta(frame: pd.DataFrame, *, layer: str | None = None) -> go.Figure:
    """Draw the change of weights as heat maps, blue below and orange above zero; of large ones a corner of 128 x 128.

    Args:
        frame: Columns layer, row, col, value, and `step` when there.
        layer: Which; default: the first two.

    Returns:
        A figure.

    Raises:
        DataError: If a column is missing or there is no such layer.
    """
    import plotly.graph_objects as go

    require(frame, ("layer", "row", "col", "value"), "delta")
    if frame.empty:
        return empty("delta")
    layers = layers_of(frame, layer)[:2]
    whole = frame[frame["layer"].isin(layers)]
    frame = whole[(whole["row"] < MAX_SHOWN) & (whole["col"] < MAX_SHOWN)]
    corner = f", first {MAX_SHOWN} rows and columns" if len(frame) < len(whole) else ""
    figure, places, _ = panels([f"layer {name}: W' − W{corner}" for name in layers], columns=2)
    reach = float(frame["value"].abs().max()) or 1.0

    def traces_at(step: int) -> list[Any]:
        traces = []
        for place, name in enumerate(layers):
            table = at_step(frame[frame["layer"] == name], step).pivot(index="row", columns="col", values="value")
            traces.append(go.Heatmap(
                z=table.to_numpy("float32"), colorscale=SIGNED, zmin=-reach, zmax=reach, showscale=place == 0,
                colorbar={"title": {"text": "change"}}, hovertemplate="out %{y}, in %{x}: %{z:.4g}<extra></extra>",
                **axes_of(place),
            ))  # fmt: skip
        return traces

    layout(figure, height=470, legend=False)
    with_steps(figure, steps_of(frame, MAX_STEPS), traces_at)
    for row, column in places:
        figure.update_xaxes(title_text="input", row=row, col=column, showgrid=False)
        label = "output" if column == 1 else ""
        figure.update_yaxes(title_text=label, autorange="reversed", row=row, col=column, showgrid=False)
    return figure
