"""Loss landscape, the method's own picture, memory, settings against results."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from wbench.method import registry
from wbench.plots._grid import plain
from wbench.workbench.panels.look import Drawn, Look, Panel, at, listed, quietly
from wbench.workbench.shown import Shown, frame_of, labels


def landscape(shown: Sequence[Shown], look: Look) -> Drawn:
    """Draw the loss around the weights, as finely as it is known.

    Args:
        shown: What is on display.
        look: How.

    Returns:
        The picture, or why there is none.
    """
    import pandas as pd

    from wbench import plots

    frame = frame_of(shown, "landscape", first=True)
    if frame.empty:
        return Drawn(
            None, "The landscape is computed while this panel is open: during training coarsely, after it ever finer."
        )
    if "step" in frame.columns and frame["step"].notna().any():  # of finished runs there is one, without a step
        timed = frame["step"].notna()
        frame = pd.concat([frame[~timed], at(frame[timed], look.cursor)[0]])
    finest = frame.groupby("run", observed=True)["alpha"].nunique()
    said = listed([f"{str(run).strip()} {count} x {count} points" for run, count in finest.items()])
    return Drawn(
        quietly(plots.landscape, frame),
        f"Loss along two random directions, each filter at its own norm: {said}.",
        frame,
    )


def picture(shown: Sequence[Shown], look: Look) -> Drawn:
    """Draw the own picture of the first method on display that has one.

    Args:
        shown: What is on display.
        look: How.

    Returns:
        The picture, or why there is none.
    """
    known = registry()
    for item in shown:
        for name in item.methods:
            cls = known.get(name)
            table = f"method.{name}"
            if cls is None or not cls.picture:
                continue
            run = next((run for run in item.runs if table in run.probes), None)
            if run is None:
                continue
            module, _, function = cls.picture.partition(":")
            frame = run.probe(table)
            with plain(False):  # frames are put into plotly's figures only
                figure = standing(quietly(getattr(importlib.import_module(module), function), frame), look.cursor)
            others = [other.name for other in shown if other is not item and name in other.methods]
            more = f" Of {listed(others)}: hide the first to see it." if others else ""
            seed = f", seed {run.seed}" if len(item.runs) > 1 else ""
            return Drawn(figure, f"{cls.title}: {item.name}{seed}.{more}", frame)
    return Drawn(None, "The methods on display have no picture of their own, or nothing of it is recorded yet.")


def standing(figure: Any, cursor: int | None) -> Any:
    """Return a figure that has a slider over steps as it stands at the cursor; the workbench's own slider moves all.

    Args:
        figure: With frames named by steps, or without any.
        cursor: The step; `None`: the last.
    """
    steps = [(int(frame.name), frame) for frame in figure.frames if str(frame.name).isdigit()]
    if not steps:
        return figure
    if cursor is not None:
        earlier = [pair for pair in steps if pair[0] <= cursor] or steps[:1]
        for trace, state in zip(figure.data, earlier[-1][1].data, strict=False):
            trace.update({key: value for key, value in state.to_plotly_json().items() if key != "type"})
    figure.frames = ()
    figure.layout.sliders = ()
    bottom, height = figure.layout.margin.b, figure.layout.height
    return figure.update_layout(margin_b=max(60, (bottom or 135) - 75), height=max(240, (height or 495) - 75))


def memory(shown: Sequence[Shown], look: Look) -> Drawn:
    """Draw the bytes of a training step.

    Args:
        shown: What is on display.
        look: How.

    Returns:
        The picture, or why there is none.
    """
    import pandas as pd

    from wbench import plots

    known = labels(shown)
    rows = [
        {"run": known[item.key], "seed": run.seed, "kind": kind, "bytes": size}
        for item in shown for run in item.runs for kind, size in run.memory.items()
    ]  # fmt: skip
    frame = pd.DataFrame(rows, columns=["run", "seed", "kind", "bytes"])
    drawn = frame[frame["kind"].isin(plots.MEMORY)]
    if drawn.empty:
        return Drawn(None, "Memory is measured at the end of a run that is trained in steps.")
    totals = drawn.groupby(["run", "seed"], sort=False)["bytes"].sum().groupby("run", sort=False).mean()
    said = listed([f"{run} {total / 1e6:.3g} MB" for run, total in totals.items()])
    return Drawn(plots.memory(frame), f"Measured on the last step, from the tensors' storages: {said}.", frame)


def settings(shown: Sequence[Shown], look: Look) -> Drawn:
    """Say what this panel needs; the workbench fills it from the list of runs.

    Args:
        shown: What is on display.
        look: How.

    Returns:
        The picture, or why there is none.
    """
    return Drawn(None, "Parallel coordinates need runs of one task that differ in a setting.")


LANDSCAPE = Panel("landscape", "Loss landscape", landscape, ("landscape",), moves=True)
PICTURE = Panel("picture", "The method's own picture", picture, ("method.",), moves=True, legend=True)
MEMORY = Panel("memory", "Memory", memory, ("memory",), legend=True)
SETTINGS = Panel("settings", "Settings and results", settings)
