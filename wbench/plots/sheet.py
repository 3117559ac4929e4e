"""One page of a run for print and thumbnails."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wbench.errors import DataError
from wbench.plots._axes import decimate
from wbench.plots._steps import at_step, steps_of
from wbench.plots._style import colour_of, layers_of, require

if TYPE_CHECKING:
    import pandas as pd

ENDINGS = (".png", ".pdf", ".svg")


def sheet(frames: Mapping[str, pd.DataFrame], path: str | Path, *, title: str = "") -> Path:
    """Draw loss, histogram, spectrum and relative update on one page with matplotlib.

    Args:
        frames: Any of `metrics`, `histogram`, `spectrum`, `effective_lr` to its table, of one run; of tables over steps the last
            step, of several seeds the mean (loss) or the first.
        path: `.png`, `.pdf` or `.svg`.
        title: Shown on top.

    Returns:
        The path.

    Raises:
        DataError: If the ending is none of these or a table lacks a column.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if Path(path).suffix not in ENDINGS:
        raise DataError(f"plots.sheet: '{path}' has no ending that is allowed; allowed: {', '.join(ENDINGS)}")
    figure = Figure(figsize=(10, 7), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 2)
    draws = {
        "metrics": (_loss, ("step", "split", "name", "value")),
        "histogram": (_histogram, ("layer", "bin_left", "bin_right", "density")),
        "spectrum": (_spectrum, ("layer", "index", "singular_value")),
        "effective_lr": (_relative, ("step", "layer", "relative_update")),
    }
    for axis, (name, (draw, columns)) in zip(axes.flat, draws.items(), strict=True):
        frame = frames.get(name)
        if frame is None or frame.empty:
            axis.text(0.5, 0.5, f"{name}: not recorded", ha="center", va="center", transform=axis.transAxes)
            axis.set_axis_off()
            continue
        require(frame, columns, f"sheet, {name}")
        draw(axis, frame)
        axis.grid(alpha=0.3)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=8, loc="best")
    figure.suptitle(title.replace("$", r"\$"))
    figure.savefig(path, dpi=130)
    return Path(path)


def _last(frame: pd.DataFrame) -> pd.DataFrame:
    frame = at_step(frame, steps_of(frame)[-1])
    return frame[frame["seed"] == frame["seed"].iloc[0]] if "seed" in frame.columns else frame


def _layers(frame: pd.DataFrame) -> list[tuple[str, pd.DataFrame, str]]:
    return [
        (name.replace("$", r"\$"), frame[frame["layer"] == name], colour_of(index))
        for index, name in enumerate(layers_of(frame, None))
    ]


def _loss(axis: Any, frame: pd.DataFrame) -> None:
    rows = frame[(frame["name"] == "loss") & (frame["split"] == "train")]
    if "phase" in rows.columns:
        rows = rows[rows["phase"] != "end"]
    mean = rows.groupby("step")["value"].mean()
    axis.plot(*decimate(mean.index.to_numpy(), mean.to_numpy()), color=colour_of(0), lw=1)
    axis.set(title="training loss", xlabel="step", ylabel="loss")


def _histogram(axis: Any, frame: pd.DataFrame) -> None:
    for name, part, colour in _layers(_last(frame)):
        axis.stairs(part["density"], [*part["bin_left"], part["bin_right"].iloc[-1]], label=name, color=colour)
    axis.set(title="weights", xlabel="weight", ylabel="density (1 / weight)")


def _spectrum(axis: Any, frame: pd.DataFrame) -> None:
    for name, part, colour in _layers(_last(frame)):
        part = part[part["singular_value"] > 0]
        axis.semilogy(part["index"], part["singular_value"], label=name, color=colour)
    axis.set(title="singular values", xlabel="index", ylabel="singular value")


def _relative(axis: Any, frame: pd.DataFrame) -> None:
    for name, part, colour in _layers(frame):
        mean = part[part["relative_update"] > 0].groupby("step")["relative_update"].mean()
        axis.semilogy(mean.index, mean, label=name, color=colour, marker=".", ms=3)
    axis.set(title="relative update", xlabel="step", ylabel="|step| / |weight|")
