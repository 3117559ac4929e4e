"""Histograms and spectra of weights: all runs at the cursor, or each over its steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from wbench.workbench.panels.look import Drawn, Look, Panel, at, quietly
from wbench.workbench.shown import Shown, frame_of


def weights(shown: Sequence[Shown], look: Look) -> Drawn:
    """Draw densities of weights.

    Args:
        shown: What is on display.
        look: How.

    Returns:
        The picture, or why there is none.
    """
    from wbench import plots

    frame = frame_of(shown, "histogram", first=True)
    if frame.empty:
        return Drawn(None, "No histogram was recorded.")
    layer = _layer(frame, look)
    if look.over == "steps":
        figure = quietly(plots.ridge, frame, layer=layer, cursor=look.cursor, columns=look.columns)
        return Drawn(figure, f"Density over the steps, the newest strongest; same bins and axes.{_seeds(shown)}", frame)
    rows, where = at(frame, look.cursor)
    step = int(frame["step"].max()) if look.cursor is None else look.cursor
    scale = "log" if look.over == "log" else "linear"
    figure = quietly(plots.histogram, frame, layer=layer, step=step, columns=look.columns, scale=scale)
    return Drawn(figure, f"Weights at {where}; shared bins.{_seeds(shown)}", rows)


def spectrum(shown: Sequence[Shown], look: Look) -> Drawn:
    """Draw singular values.

    Args:
        shown: What is on display.
        look: How.

    Returns:
        The picture, or why there is none.
    """
    from wbench import plots

    frame = frame_of(shown, "spectrum", first=True)
    if frame.empty:
        return Drawn(None, "No spectrum was recorded.")
    layer = _layer(frame, look)
    rows, where = at(frame, look.cursor)
    rows = rows if layer is None else rows[rows["layer"] == layer]
    ranks = rows["stable_rank"]
    if look.over == "steps":
        figure = quietly(plots.spectrum_steps, frame, layer=layer, cursor=look.cursor, columns=look.columns)
    else:
        step = int(frame["step"].max()) if look.cursor is None else look.cursor
        figure = quietly(plots.spectrum, frame, layer=layer, step=step, columns=look.columns)
    said = f"Singular values at {where}; stable ranks {ranks.min():.3g} to {ranks.max():.3g}.{_seeds(shown)}"
    return Drawn(figure, said, frame if look.over == "steps" else rows)


def _layer(frame: Any, look: Look) -> str | None:
    return look.layer if look.layer is not None and (frame["layer"] == look.layer).any() else None


def _seeds(shown: Sequence[Shown]) -> str:
    return " First seed of each." if any(len(item.runs) > 1 for item in shown) else ""


WEIGHTS = Panel("histogram", "Weights", weights, ("histogram",), moves=True)
SPECTRUM = Panel("spectrum", "Singular spectrum", spectrum, ("spectrum",), moves=True)
