"""What layers share: coefficients of their atoms, and the spectra of their stacked matrices."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wbench.plots._style import SIGNED, axes_of, empty, layout, panels, require, style_of, text

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


def sharing(frame: pd.DataFrame) -> go.Figure:
    """Draw each dictionary's coefficients, layers by atoms, and the singular values of the stacked matrices, at the last step.

    A flat spectrum says that there is nothing to share, a steep one that layers are redundant.

    Args:
        frame: Columns what (`coefficient`, `spectrum`), dictionary, layer, index, value; and step, where there are several.

    Returns:
        A figure.

    Raises:
        DataError: If a column is missing.
    """
    import plotly.graph_objects as go

    require(frame, ("what", "dictionary", "layer", "index", "value"), "sharing")
    if frame.empty:
        return empty("sharing")
    last = frame[frame["step"] == frame["step"].max()] if "step" in frame.columns else frame
    mixed, spectra = (last[last["what"] == what] for what in ("coefficient", "spectrum"))
    names = list(dict.fromkeys(mixed["dictionary"]))
    figure, places, rows = panels([*(f"coefficients {name}" for name in names), "spectrum of the stack"], columns=3)
    most = float(mixed["value"].abs().max()) if len(mixed) else 1.0
    for place, name in enumerate(names):
        table = mixed[mixed["dictionary"] == name].pivot(index="layer", columns="index", values="value")
        figure.add_trace(
            go.Heatmap(
                z=table.to_numpy("float32"), x=table.columns, y=table.index, zmin=-most, zmax=most, colorscale=SIGNED,
                showscale=place == 0, colorbar={"title": "c", "len": 0.5, "y": 0.2}, **axes_of(place),
            )
        )  # fmt: skip
        row, col = places[place]
        figure.update_xaxes(title_text="atom", dtick=max(1, len(table.columns) // 6), row=row, col=col)
        figure.update_yaxes(title_text="layer", dtick=1, autorange="reversed", row=row, col=col)
    row, col = places[-1]
    for index, (name, part) in enumerate(spectra.groupby("dictionary", sort=False)):
        line = {
            "x": part["index"],
            "y": part["value"].to_numpy("float32"),
            "mode": "lines+markers",
            "line": style_of(index),
        }
        figure.add_trace(go.Scatter(**line, name=text(name), **axes_of(len(names))))
    layout(figure, height=120 + 260 * rows)
    figure.update_xaxes(title_text="place", row=row, col=col)
    figure.update_yaxes(title_text="over the first", range=[0, 1.05], row=row, col=col)
    return figure
