"""A small trained matrix between frozen directions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wbench.plots._steps import at_step, steps_of, with_steps
from wbench.plots._style import SIGNED, empty, layers_of, layout, require, style_of, text

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


def core(frame: pd.DataFrame, *, layer: str | None = None) -> go.Figure:
    """Draw the entries of a square core, and how far each direction beside it has turned, one layer over steps.

    Args:
        frame: Columns layer, row, col, value, angle (degrees), frozen, and `step` when there.
        layer: Which; default: the first.

    Returns:
        A figure.

    Raises:
        DataError: If a column is missing or there is no such layer.
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    require(frame, ("layer", "row", "col", "value", "angle", "frozen"), "core")
    if frame.empty:
        return empty("core")
    name = layers_of(frame, layer)[0]
    frame = frame[frame["layer"] == name]
    figure = make_subplots(
        rows=1,
        cols=2,
        column_widths=[0.5, 0.5],
        horizontal_spacing=0.24,
        subplot_titles=["core S", "turn of each column of B"],
    )
    reach = float(frame["value"].abs().max()) or 1.0

    def traces_at(step: int) -> list[Any]:
        part = at_step(frame, step)
        table = part.pivot_table(index="row", columns="col", values="value")
        columns = part.drop_duplicates("col").sort_values("col")
        closed = columns["col"].to_numpy() < int(columns["frozen"].iloc[0])
        colours = [style_of(0)["color"] if is_frozen else style_of(1)["color"] for is_frozen in closed]
        return [
            go.Heatmap(
                z=table.to_numpy().round(6).tolist(), x=table.columns.to_numpy(), y=table.index.to_numpy(), zmin=-reach, zmax=reach,
                colorscale=SIGNED, xaxis="x", yaxis="y", colorbar={"x": 0.39, "len": 1.0, "thickness": 14, "title": {"text": "value"}},
                hovertemplate="row %{y}, column %{x}: %{z:.3g}<extra></extra>",
            ),
            go.Bar(
                x=columns["col"].to_numpy(), y=columns["angle"].to_numpy("float32"), marker={"color": colours}, xaxis="x2", yaxis="y2",
                hovertemplate="column %{x}: %{y:.2f} degrees<extra></extra>",
            ),
        ]  # fmt: skip

    layout(figure, height=420, title=f"layer {text(name)}; columns of B: frozen blue, trained orange", legend=False)
    with_steps(figure, steps_of(frame), traces_at)
    size = int(frame["row"].max()) + 1
    figure.update_yaxes(autorange="reversed", title_text="row", row=1, col=1, dtick=max(1, size // 8))
    figure.update_xaxes(title_text="column", row=1, col=1, dtick=max(1, size // 8))
    high = float(frame["angle"].max())
    figure.update_yaxes(title_text="angle (degrees)", range=[0, 1.05 * high if high > 0 else 1.0], row=1, col=2)
    figure.update_xaxes(title_text="column", row=1, col=2, dtick=max(1, size // 8))
    return figure
