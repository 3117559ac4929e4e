"""The methods' own pictures."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go


def spread(frame: pd.DataFrame) -> go.Figure:
    """Draw each layer's size over steps.

    Args:
        frame: Columns step, layer, size.

    Returns:
        A figure.
    """
    layers = frame.groupby("layer", sort=False)
    lines = [go.Scatter(x=part["step"], y=part["size"], name=str(name)) for name, part in layers]
    return go.Figure(lines, {"yaxis": {"title": "mean norm of an output's trained weights"}})
