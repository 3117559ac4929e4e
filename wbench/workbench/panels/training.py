"""Loss, metrics and effective learning rates over training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from wbench.workbench.panels.look import Drawn, Look, Panel, at, listed, quietly
from wbench.workbench.shown import Shown, frame_of, labels

USUAL = ("train loss", "valid loss", "valid accuracy")
SPLITS = ("test", "valid", "train")
END = "end"


def curves(shown: Sequence[Shown], look: Look) -> Drawn:
    """Draw loss and metrics.

    Args:
        shown: What is on display.
        look: How.

    Returns:
        The picture, or why there is none.
    """
    from wbench import plots
    from wbench.plots.metrics import whats_of

    frame = frame_of(shown, "metrics")
    if frame.empty:
        return Drawn(None, "Press Run, or tick runs in the table below.")
    frame = frame[frame["split"].isin(SPLITS)]
    if frame.empty:
        return Drawn(None, f"Nothing was measured on {', '.join(SPLITS)} data.")
    ended = frame[frame["phase"] == END]
    last = frame.groupby("run", observed=True)["step"].max()
    without = [run for run in last.index[last == 0] if (ended["run"] == run).any()]
    during = frame[(frame["phase"] != END) & ~frame["run"].isin(without)]
    if during.empty:  # nothing was trained in steps: the results themselves
        final = ended.groupby(["run", "split", "name"], observed=True)["value"].mean().reset_index()
        final = final.astype({"split": str, "name": str})
        final = final.sort_values("split", key=lambda splits: splits.map(SPLITS.index), kind="stable")
        said = [f"{run}: {split} {name} {value:.4g}" for run, split, name, value in final.to_numpy()]
        return Drawn(_bars(final), f"Nothing is trained in steps here. {listed(said, 6)}.", final)
    known = labels(shown)
    sizes = {known[item.key]: item.batch_size for item in shown}
    if look.x == "samples":
        during = during.assign(samples=during["step"] * during["run"].astype(str).map(sizes).fillna(1).astype(int))
    _, present = whats_of(during)
    names = next(filter(None, (tuple(n for n in wanted if n in present) for wanted in (look.metrics, USUAL, present))))
    figure = quietly(
        plots.metrics, during, names=names, smooth=look.smooth, seeds=look.seeds, x=look.x, columns=look.whole
    )
    figure.update_layout(meta={"step_axes": _axes(figure) if look.x == "step" else []})
    more = f" Without steps, and not drawn: {listed(without)}." if without else ""
    return Drawn(figure, _said(during, names[0], look, shown) + more, during)


def _said(frame: Any, what: str, look: Look, shown: Sequence[Shown]) -> str:
    split, _, name = what.partition(" ")
    rows = frame[(frame["split"] == split) & (frame["name"] == name)]
    if rows.empty:
        return ""
    rows, where = at(rows, look.cursor)
    parts, known = [], labels(shown)
    for item in shown:
        values = rows[rows["run"] == known[item.key]]["value"]
        if len(values):
            count = f" (n = {len(values)})" if len(values) > 1 else ""
            parts.append(f"{item.name} {float(values.mean()):.4g}{count}")
    smooth = f" Smoothed with weight {look.smooth:g}; the raw line stays, fainter." if look.smooth else ""
    return f"{what} at {where}: {listed(parts)}.{smooth}"


def _axes(figure: Any) -> list[str]:
    return sorted(name.replace("axis", "") for name in figure.layout if name.startswith("xaxis"))


def _bars(final: Any) -> Any:
    import plotly.graph_objects as go

    from wbench.plots._grid import Grid
    from wbench.plots._style import axes_of, colour_of, runs_of, text

    whats = (final["split"] + " " + final["name"]).unique().tolist()[:6]
    grid, traces = Grid(whats, columns=3), []
    for place, what in enumerate(whats):
        part = final[(final["split"] + " " + final["name"]) == what]
        for run, index in runs_of(part).items():
            value = float(part[part["run"].astype(str) == run]["value"].iloc[0])
            if math.isfinite(value):
                traces.append(go.Bar(
                    x=[text(run)], y=[value], marker={"color": colour_of(index)}, name=text(run), showlegend=False, **axes_of(place)
                ))  # fmt: skip
        grid.axis("y", place, text(what))
    return grid.figure(traces, height=110 + 270 * grid.rows, legend=False)


def rates(shown: Sequence[Shown], look: Look) -> Drawn:
    """Draw relative updates and effective learning rates by layer.

    Args:
        shown: What is on display.
        look: How.

    Returns:
        The picture, or why there is none.
    """
    from wbench import plots

    frame = frame_of(shown, "effective_lr", first=True)
    if frame.empty:
        return Drawn(
            None, "No effective learning rate was recorded: nothing is trained in steps, or the probe was off."
        )
    figure = quietly(plots.effective_lr, frame, layer=look.layer if look.layer in set(frame["layer"]) else None)
    _layers_alone(figure)
    figure.update_layout(meta={"step_axes": _axes(figure)})
    rows, where = at(frame, look.cursor)
    top = rows.sort_values("relative_update", ascending=False).iloc[0]
    seeds = " First seed of each." if any(len(item.runs) > 1 for item in shown) else ""
    said = f"At {where} a step moves {top['layer']} most, by {top['relative_update']:.2g} of its length.{seeds}"
    return Drawn(figure, said, frame)


def _layers_alone(figure: Any) -> None:
    # the workbench has one legend of runs for all panels: here only the layers are told, by their dashes
    named: set[str] = set()
    for trace in figure.data:
        layer = str(trace["name"]).rsplit(": ", 1)[-1]
        trace["showlegend"] = bool(trace["showlegend"]) and layer not in named
        named.add(layer)
        trace["legendgroup"] = trace["name"] = layer


CURVES = Panel("curves", "Loss and metrics", curves, ("metrics",), moves=True, wide=True)
RATES = Panel("effective_lr", "Effective learning rate", rates, ("effective_lr",), moves=True, wide=True, legend=True)
