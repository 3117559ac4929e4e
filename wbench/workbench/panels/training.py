"""Loss, metrics and effective learning rates over training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from wbench.workbench.panels.look import Drawn, Look, Panel, at, listed, placed, quietly
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
    import numpy as np

    from wbench import plots
    from wbench.plots._style import codes_of

    frame = frame_of(shown, "metrics")
    if frame.empty:
        return Drawn(None, "Press Run, or tick runs in the table below.")
    splits, known = codes_of(frame["split"])
    of_ours = np.isin(known, SPLITS)[splits]
    if not of_ours.any():
        return Drawn(None, f"Nothing was measured on {', '.join(SPLITS)} data.")
    phases, known = codes_of(frame["phase"])
    at_end = phases == (known.index(END) if END in known else -1)
    runs, names = codes_of(frame["run"])
    stepped = np.zeros(len(names), dtype=bool)  # which runs were trained in steps
    stepped[runs[of_ours & (frame["step"].to_numpy() > 0)]] = True
    without = [
        name for code, name in enumerate(names) if not stepped[code] and (of_ours & at_end & (runs == code)).any()
    ]
    left_out = np.isin(names, without)[runs]
    during = frame.take(np.flatnonzero(of_ours & ~at_end & ~left_out))
    if during.empty:  # nothing was trained in steps: the results themselves
        return _results(frame[of_ours & at_end])
    if look.x == "samples":
        called = labels(shown)
        sizes = {called[item.key]: item.batch_size for item in shown}
        during = during.assign(samples=during["step"] * during["run"].astype(str).map(sizes).fillna(1).astype(int))
    whats = _Whats(during)
    present = whats.names
    wanted = next(filter(None, (tuple(n for n in some if n in present) for some in (look.metrics, USUAL, present))))
    figure = quietly(
        plots.metrics, during, names=wanted, smooth=look.smooth, seeds=look.seeds, x=look.x, columns=look.whole
    )
    figure.update_layout(meta={"step_axes": _axes(figure) if look.x == "step" else []})
    more = f" Without steps, and not drawn: {listed(without)}." if without else ""
    return Drawn(figure, whats.said(wanted[0], look, shown) + more, during)


def _results(ended: Any) -> Drawn:
    final = ended.groupby(["run", "split", "name"], observed=True)["value"].mean().reset_index()
    final = final.astype({"split": str, "name": str})
    final = final.sort_values("split", key=lambda splits: splits.map(SPLITS.index), kind="stable")
    said = [f"{run}: {split} {name} {value:.4g}" for run, split, name, value in final.to_numpy()]
    return Drawn(_bars(final), f"Nothing is trained in steps here. {listed(said, 6)}.", final)


class _Whats:
    # metrics as numbers, to be said in a sentence
    def __init__(self, frame: Any) -> None:
        from wbench.plots._style import codes_of
        from wbench.plots.metrics import whats_of

        self._what, self.names = whats_of(frame)
        self._runs, self._run_names = codes_of(frame["run"])
        self._steps, self._values = frame["step"].to_numpy(), frame["value"].to_numpy()

    def said(self, what: str, look: Look, shown: Sequence[Shown]) -> str:
        rows = self._what == self.names.index(what)
        runs, values = self._runs[rows], self._values[rows]
        chosen, where = placed(runs, self._steps[rows], look.cursor)
        parts, known = [], labels(shown)
        for item in shown:
            code = self._run_names.index(known[item.key]) if known[item.key] in self._run_names else -1
            own = values[chosen & (runs == code)]
            if len(own):
                count = f" (n = {len(own)})" if len(own) > 1 else ""
                parts.append(f"{item.name} {float(own.mean()):.4g}{count}")
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
