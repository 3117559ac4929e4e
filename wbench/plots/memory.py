"""Where the bytes of training are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wbench.plots._style import colour_of, empty, layout, require, text

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

ORDER = ("parameters", "buffers", "gradients", "optimizer", "activations")
UNITS = ("B", "kB", "MB", "GB", "TB")


def memory(frame: pd.DataFrame) -> go.Figure:
    """Draw the bytes that training held, a bar a run, stacked by what they are for.

    Args:
        frame: Columns run, kind (parameters, buffers, gradients, optimizer, activations; others are left out), bytes.

    Returns:
        A figure.

    Raises:
        DataError: If a column is missing.
    """
    import plotly.graph_objects as go

    require(frame, ("run", "kind", "bytes"), "memory")
    frame = frame[frame["kind"].isin(ORDER)] if len(frame) else frame
    if frame.empty:
        return empty("memory")
    table = frame.groupby(["run", "kind"], observed=True, sort=False)["bytes"].mean().unstack("kind").fillna(0.0)
    table = table.reindex(index=list(dict.fromkeys(frame["run"].astype(str))))
    most = float(table.sum(axis=1).max())
    power = min(len(UNITS) - 1, int(np.log10(max(most, 1.0)) // 3))
    figure = go.Figure()
    for index, kind in enumerate(name for name in ORDER if name in table.columns):
        values = table[kind].to_numpy(float)
        figure.add_trace(go.Bar(
            y=[text(run) for run in table.index], x=(values / 1000**power).astype("float32"), orientation="h", name=kind,
            marker={"color": colour_of(index)}, customdata=values.astype("int64"),
            hovertemplate=f"{kind}: %{{customdata:,}} bytes<extra>%{{y}}</extra>",
        ))  # fmt: skip
    layout(figure, height=150 + 42 * len(table))
    figure.update_layout(
        barmode="stack", legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "traceorder": "normal"}
    )
    figure.update_xaxes(title_text=f"memory of a training step ({UNITS[power]})")
    figure.update_yaxes(autorange="reversed")
    return figure
