"""Estimates with their intervals and what they must reach."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from wbench.errors import DataError
from wbench.plots._style import GREY, INK, empty, layout, require, text

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

# passed: word, marker, the same as text, colour
OUTCOMES = {
    "yes": ("holds", "circle", "●", "#00704F"),
    "no": ("fails", "x", "✕", "#B84A00"),
    "undecided": ("undecided", "diamond-open", "◇", GREY),
}


def intervals(frame: pd.DataFrame) -> go.Figure:
    """Draw each check's estimate with its interval and threshold, a panel a check, as units differ.

    The verdict is told by marker, word and colour; the threshold is the dashed line.

    Args:
        frame: Columns label, estimate, low, high, threshold, passed (`yes`, `no`, `undecided`), unit, and `arm_role`,
            `direction` when there.

    Returns:
        A figure.

    Raises:
        DataError: If a column is missing or `passed` holds another word.
    """
    from plotly.subplots import make_subplots

    require(frame, ("label", "estimate", "low", "high", "threshold", "passed", "unit"), "intervals")
    if frame.empty:
        return empty("intervals")
    unknown = sorted(set(frame["passed"].astype(str)) - set(OUTCOMES))
    if unknown:
        raise DataError(f"plots.intervals: passed='{unknown[0]}' is not allowed; allowed: {', '.join(OUTCOMES)}")
    checks = [(str(label), part) for label, part in frame.groupby("label", sort=False)]
    counts = [len(part) for _, part in checks]
    heights = [40 * count + 30 for count in counts]
    gap, top = 85, 45
    height = sum(heights) + gap * (len(checks) - 1)
    figure = make_subplots(
        rows=len(checks), cols=1, subplot_titles=[text(label) for label, _ in checks], row_heights=heights,
        vertical_spacing=gap / height,
    )  # fmt: skip
    figure.update_annotations(x=0.0, xanchor="left", font_size=13)
    layout(figure, height=height + top + 60, legend=False)
    for row, (_, part) in enumerate(checks, start=1):
        axis = "" if row == 1 else str(row)
        for place, item in enumerate(part.to_dict("records")):
            figure.add_trace(_point(item, place), row=row, col=1)
            word, _, sign, colour = OUTCOMES[str(item["passed"])]
            note = f"{sign} {word}: {item['estimate']:.4g} [{item['low']:.4g}, {item['high']:.4g}]"
            figure.add_annotation(
                x=1.01, xref="paper", xanchor="left", y=place, yref=f"y{axis}", text=note, showarrow=False,
                font={"color": colour, "size": 13},
            )  # fmt: skip
        threshold, unit = float(part["threshold"].iloc[0]), text(part["unit"].iloc[0])
        line = {"color": INK, "dash": "dash", "width": 1.5}
        ends = {"x0": threshold, "x1": threshold, "y0": 0, "y1": 1, "xref": f"x{axis}", "yref": f"y{axis} domain"}
        figure.add_shape(type="line", **ends, line=line)
        direction = text(part["direction"].iloc[0]) if "direction" in part.columns else ""
        needed = " ".join(word for word in ("needed:", direction, f"{threshold:g}", unit) if word)
        figure.update_xaxes(
            title_text=needed, range=_extent(part), title_font_size=12, title_standoff=4, row=row, col=1
        )
        roles = [text(role) for role in part["arm_role"]] if "arm_role" in part.columns else [""] * len(part)
        ticks = {"tickvals": list(range(len(part))), "ticktext": roles, "range": [len(part) - 0.4, -0.6]}
        figure.update_yaxes(**ticks, showgrid=False, row=row, col=1)
    figure.update_layout(margin={"l": 90, "r": 330, "t": top})
    return figure


def _point(item: Mapping[Any, Any], place: int) -> go.Scatter:
    import plotly.graph_objects as go

    word, symbol, _, colour = OUTCOMES[str(item["passed"])]
    error = {
        "type": "data", "symmetric": False, "array": [item["high"] - item["estimate"]],
        "arrayminus": [item["estimate"] - item["low"]], "thickness": 2, "width": 6, "color": colour,
    }  # fmt: skip
    said = f"{item['estimate']:.4g} [{item['low']:.4g}, {item['high']:.4g}] {text(item['unit'])}, {word}<extra></extra>"
    return go.Scatter(
        x=[item["estimate"]], y=[place], error_x=error, mode="markers", name=word, hovertemplate=said,
        marker={"symbol": symbol, "size": 11, "color": colour},
    )  # fmt: skip


def _extent(part: pd.DataFrame) -> list[float] | None:
    values = part[["estimate", "low", "high", "threshold"]].to_numpy(float)
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    margin = 0.06 * (float(values.max() - values.min()) or abs(float(values.max())) or 1.0)
    return [float(values.min()) - margin, float(values.max()) + margin]
