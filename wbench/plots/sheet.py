"""One page of a run for print and thumbnails."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wbench.plots._style import PALETTE, largest_layers

if TYPE_CHECKING:
    import pandas as pd


def sheet(frames: Mapping[str, pd.DataFrame], path: str | Path, *, title: str = "") -> Path:
    """Draw loss, histogram, spectrum and relative update on one page with matplotlib.

    Args:
        frames: Any of `metrics`, `histogram`, `spectrum`, `effective_lr` to its table; of tables over steps the last step.
        path: `.png`, `.pdf` or `.svg`.
        title: Shown on top.

    Returns:
        The path.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 2)
    draws = {"metrics": _loss, "histogram": _histogram, "spectrum": _spectrum, "effective_lr": _relative}
    for axis, (name, draw) in zip(axes.flat, draws.items(), strict=True):
        frame = frames.get(name)
        if frame is None or frame.empty:
            axis.text(0.5, 0.5, f"{name}: not recorded", ha="center", va="center", transform=axis.transAxes)
            axis.set_axis_off()
        else:
            draw(axis, frame)
            axis.grid(alpha=0.3)
    figure.suptitle(title)
    figure.savefig(path, dpi=130)
    return Path(path)


def _last(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame["step"] == frame["step"].max()] if "step" in frame.columns else frame


def _loss(axis: Any, frame: pd.DataFrame) -> None:
    rows = frame[(frame["name"] == "loss") & (frame["split"] == "train") & (frame.get("phase", "") != "end")]
    axis.plot(rows["step"], rows["value"], color=PALETTE[0], lw=1)
    axis.set(title="training loss", xlabel="step", ylabel="loss")


def _histogram(axis: Any, frame: pd.DataFrame) -> None:
    frame = _last(frame)
    for index, name in enumerate(largest_layers(frame, None)):
        part = frame[frame["layer"] == name]
        axis.step(
            (part["bin_left"] + part["bin_right"]) / 2,
            part["density"],
            where="mid",
            label=name,
            color=PALETTE[index % 6],
        )
    axis.set(title="weights", xlabel="weight", ylabel="density")
    axis.legend(fontsize=7)


def _spectrum(axis: Any, frame: pd.DataFrame) -> None:
    frame = _last(frame)
    for index, name in enumerate(largest_layers(frame, None)):
        part = frame[(frame["layer"] == name) & (frame["singular_value"] > 0)]
        axis.semilogy(part["index"], part["singular_value"], label=name, color=PALETTE[index % 6])
    axis.set(title="singular values", xlabel="index", ylabel="singular value")
    axis.legend(fontsize=7)


def _relative(axis: Any, frame: pd.DataFrame) -> None:
    for index, name in enumerate(largest_layers(frame, None)):
        part = frame[(frame["layer"] == name) & (frame["relative_update"] > 0)]
        axis.semilogy(part["step"], part["relative_update"], label=name, color=PALETTE[index % 6], marker=".", ms=3)
    axis.set(title="relative update", xlabel="step", ylabel="|step| / |weight|")
    axis.legend(fontsize=7)
