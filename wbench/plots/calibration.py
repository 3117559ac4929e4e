"""What layer-wise calibration of a quantised model has gained, and the precision of each layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wbench.plots._steps import at_step, steps_of
from wbench.plots._style import GREY, PALETTE, empty, layout, of_run, panels, require, runs_of, text

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

TITLES = ("error over the layer's own output", "bits")
BARS = (
    (1, "before", "before calibration", GREY),
    (1, "after", "after calibration", PALETTE[0]),
    (2, "bits_w", "weights", PALETTE[1]),
    (2, "bits_a", "inputs", PALETTE[4]),
)


def calibration(frame: pd.DataFrame) -> go.Figure:
    """Draw each layer's noise before and after calibration, and its bits. Of several runs the first, at its last step.

    Args:
        frame: Columns layer, before, after, bits_w, bits_a; bytes (shown on hover), `run` and `step` when there.

    Returns:
        A figure.

    Raises:
        DataError: If a column is missing.
    """
    import plotly.graph_objects as go

    require(frame, ("layer", "before", "after", "bits_w", "bits_a"), "calibration")
    if frame.empty:
        return empty("calibration")
    frame = of_run(frame, next(iter(runs_of(frame))))
    frame = at_step(frame, steps_of(frame)[-1])
    figure, _, _ = panels(TITLES, columns=2)
    names = [text(name) for name in frame["layer"]]
    sizes = frame["bytes"] if "bytes" in frame.columns else [float("nan")] * len(frame)
    for column, value, label, colour in BARS:
        shown = "%{y:.1%}" if column == 1 else "%{y} bits, weight of %{customdata:,.0f} bytes"
        bar = go.Bar(
            x=names, y=frame[value], name=label, marker={"color": colour}, customdata=sizes,
            hovertemplate=f"%{{x}}: {shown}<extra>{label}</extra>",
        )  # fmt: skip
        figure.add_trace(bar, row=1, col=column)
    layout(figure, height=440)
    figure.update_layout(barmode="group", bargap=0.25)
    figure.update_xaxes(type="category", title_text="layer")
    figure.update_yaxes(title_text="root mean square", tickformat=".0%", rangemode="tozero", row=1, col=1)
    figure.update_yaxes(title_text="bits", dtick=2, rangemode="tozero", row=1, col=2)
    return figure
