"""What report notebooks show: figures with captions, tables, method cards, verdicts. Text is escaped; nothing is a widget."""

from __future__ import annotations

import html
import importlib
import json
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from wbench import claims
from wbench.claims import ClaimResult
from wbench.method import Method
from wbench.runs import Run, RunStore
from wbench.training import restore, task_of, train
from wbench.training.device import derive

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


class Html:
    """HTML to display; everything in it was escaped by its maker.

    Args:
        text: The HTML.
    """

    def __init__(self, text: str) -> None:
        self.text = text

    def _repr_html_(self) -> str:
        return self.text


class Figure:
    """A figure with a heading and a sentence: drawn by JupyterLab itself, and as plain HTML in a report.

    Args:
        figure: A plotly figure.
        title: Heading.
        caption: What to see in it, with numbers.
    """

    def __init__(self, figure: go.Figure, title: str, caption: str = "") -> None:
        self.figure, self.title, self.caption = figure, title, caption

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        from wbench.plots import CONFIG

        head = f"<h3>{html.escape(self.title)}</h3>"
        note = f'<p class="caption">{html.escape(self.caption)}</p>' if self.caption else ""
        div = self.figure.to_html(full_html=False, include_plotlyjs=False, include_mathjax=False, config=CONFIG, auto_play=False)
        shown = json.loads(self.figure.to_json())
        return {"text/html": head + div + note, "application/vnd.plotly.v1+json": {**shown, "config": CONFIG}}


def table(frame: pd.DataFrame, *, index: bool = False) -> Html:
    """Return a table.

    Args:
        frame: The table.
        index: Whether to show its index.
    """

    def number(value: float) -> str:
        return f"{value:.4g}"

    return Html(f'<div class="wide">{frame.to_html(index=index, escape=True, border=0, float_format=number, na_rep="")}</div>')


def method_card(method: Method) -> Html:
    """Return who a method is, and its knobs with the values in use.

    Args:
        method: The method.
    """
    cls, paper = type(method), type(method).paper
    source = ""
    if paper is not None:
        cited = f"{paper.authors}. {paper.title}. {paper.venue or ''} {paper.year}"
        source = f"<p>{html.escape(cited)}{f', arXiv:{html.escape(paper.arxiv)}' if paper.arxiv else ''}</p>"
    facts = f"<p>Stage: {cls.stage}. Follows the {cls.fidelity if cls.fidelity != 'inferred' else 'paper, in part inferred'}.</p>"
    rows = "".join(
        f"<tr><td><code>{name}</code></td><td>{html.escape(str(getattr(method, name)))}</td>"
        f"<td>{html.escape(spec.allowed)}</td><td>{html.escape(spec.doc)}</td></tr>"
        for name, spec in cls.knobs().items()
    )
    head = "<tr><th>knob</th><th>value</th><th>allowed</th><th>what it does</th></tr>"
    return Html(f"<h3>{html.escape(cls.title)}</h3>{source}{facts}<div class='wide'><table>{head}{rows}</table></div>")


def verdict(result: ClaimResult) -> Html:
    """Return a claim's statement and verdict.

    Args:
        result: The result.
    """
    claim, found = result.claim, result.verdict
    kind = found.outcome.replace(" ", "-")
    scope = f"{len(result.seeds)} seeds ({', '.join(map(str, result.seeds))}), scale {result.scale}, {result.seconds:.1f} s"
    control = f"The control ({claim.control}) comes out {found.control_outcome}."
    return Html(
        f"<h3>{html.escape(claim.id)}: the claim</h3><p>{html.escape(claim.statement)}</p>"
        f"<p class='caption'>{html.escape(claim.paper_result)}</p>"
        f"<div class='verdict {kind}'><b>{html.escape(found.outcome)}</b><br>{html.escape(found.reason)}. {html.escape(control)}<br>"
        f"<span class='caption'>{html.escape(scope)}</span></div><p>{html.escape(claim.reads)}</p>"
    )


def checks(result: ClaimResult) -> Html:
    """Return every check with its interval, threshold and resampling unit.

    Args:
        result: The result.
    """
    frame = result.verdict.frame()
    frame["95 % interval"] = [f"{low:.4g} to {high:.4g}" for low, high in zip(frame["low"], frame["high"], strict=True)]
    frame["needed"] = [f"{d} {t:g} {u}" for d, t, u in zip(frame["direction"], frame["threshold"], frame["unit"], strict=True)]
    frame["gates"] = frame["gate"].map({True: "yes", False: "reported only"})
    shown = ["arm_role", "label", "estimate", "95 % interval", "needed", "passed", "gates", "seeds", "resampled", "note"]
    return table(frame[shown].rename(columns={"arm_role": "arm", "label": "check", "passed": "holds", "resampled": "resampling unit"}))


def per_seed(result: ClaimResult) -> Html:
    """Return every arm's value for every seed, of the metrics that are checked.

    Args:
        result: The result.
    """
    wanted = {check.metric for check in result.claim.checks}
    frame = result.frame()
    frame = frame[frame["metric"].isin(wanted)]
    wide = frame.pivot_table(index=["metric", "arm"], columns="seed", values="value", sort=False)
    wide.columns = [f"seed {seed}" for seed in wide.columns]
    wide.insert(0, "mean", wide.mean(axis=1))
    chosen = {arm: ", ".join(f"{key}={value:g}" for key, value in point.items()) for arm, point in result.points.items()}
    wide.insert(0, "chosen", [chosen.get(arm, "") for _, arm in wide.index])
    return table(wide.reset_index())


def claim_figures(result: ClaimResult) -> list[Figure]:
    """Return the figure of the checks, and the claim's own where it has one.

    Args:
        result: The result.
    """
    from wbench import plots

    figures = [Figure(plots.intervals(result.verdict.frame()), "Checks", "Estimate and 95 % interval of each check; dashed: what is needed.")]
    if result.claim.picture:
        figures.append(Figure(resolve(result.claim.picture)(result.picture_frame()), "The claim's own picture"))
    return figures


def method_picture(run: Run, method: Method) -> Figure | None:
    """Return the method's own picture of a run, if it has one and it was recorded.

    Args:
        run: A run of the method.
        method: The method.
    """
    name = f"method.{method.id}"
    if not type(method).picture or name not in run.probes:
        return None
    return Figure(resolve(type(method).picture)(run.probe(name)), f"{type(method).title}: its own picture")


def resolve(address: str) -> Callable[..., Any]:
    """Return what `module:function` names.

    Args:
        address: As a class attribute of ours or of a plug-in.
    """
    module, _, name = address.partition(":")
    return getattr(importlib.import_module(module), name)  # type: ignore[no-any-return]


def joined(runs: Mapping[str, Iterable[Run]], probe: str) -> pd.DataFrame:
    """Return one table of several runs, with columns `run` and `seed`; runs without the probe are left out.

    Args:
        runs: Name to runs, one a seed.
        probe: A probe, or `metrics`.
    """
    import pandas as pd

    frames = []
    for name, group in runs.items():
        for run in group:
            if probe == "metrics":
                frames.append(run.metrics.assign(run=name, seed=run.seed))
            elif probe in run.probes:
                frames.append(run.probe(probe).assign(run=name, seed=run.seed))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def landscape(run: Run, dims: int = 1, *, points: int = 21, samples: int = 512) -> pd.DataFrame:
    """Return the loss landscape of a run's finished model on training data; computed once and kept with the run.

    Args:
        run: The run.
        dims: 1 or 2.
        points: Points an axis.
        samples: Training samples that the loss is taken over.
    """
    import torch

    from wbench import probes

    name = f"landscape{dims}d"
    if name not in run.probes:
        task = task_of(run)
        split = task.data(run.seed)["train"]
        batch = next(split.batches(samples, torch.Generator().manual_seed(derive(run.seed, "landscape"))))
        model = restore(run)
        frame = probes.landscape(model, lambda m: task.loss(m(batch[0]), batch).mean(), dims=dims, points=points)  # type: ignore[arg-type]
        run.attach(name, frame)
    return run.probe(name)


def results(runs: Mapping[str, Iterable[Run]]) -> Html:
    """Return final metrics per run name: mean and deviation over seeds, trained numbers, optimizer state, seconds.

    Args:
        runs: Name to runs, one a seed.
    """
    import pandas as pd

    rows = []
    for name, group in runs.items():
        runs_ = list(group)
        row: dict[str, Any] = {"run": name, "seeds": len(runs_), "status": ", ".join(sorted({run.status for run in runs_}))}
        for key in dict.fromkeys(key for run in runs_ for key in run.summary if key.startswith("test.")):
            values = [run.summary.get(key) for run in runs_]
            row[key] = _spread([float("nan") if value is None else value for value in values])
        for key in ("trainable", "optimizer_numbers"):
            value = runs_[0].summary.get(f"store.{key}")
            row[key.replace("_", " ")] = None if value is None else int(value)
        row["seconds"] = sum(run.info["timings"]["seconds"] for run in runs_) / len(runs_)
        rows.append(row)
    return table(pd.DataFrame(rows))


def _spread(values: list[float]) -> str:
    import numpy as np

    mean = f"{np.mean(values):.4g}"
    return mean if len(values) < 2 else f"{mean} ± {np.std(values, ddof=1):.2g}"


def provenance(runs: Mapping[str, Iterable[Run]], parameters: Mapping[str, Any]) -> Html:
    """Return parameters, environment, data checksums, seeds, run ids and wall time.

    Args:
        runs: Name to runs.
        parameters: Of the notebook.
    """
    import pandas as pd

    every = [run for group in runs.values() for run in group]
    info = every[0].info
    rows = [{"what": f"parameter {key}", "value": str(value)} for key, value in parameters.items()]
    rows += [{"what": key, "value": str(value)} for key, value in info["environment"].items()]
    rows += [{"what": f"data {key} (SHA-256)", "value": value} for key, value in list(info["data"].items())[:6]]
    rows += [{"what": "seeds", "value": ", ".join(str(seed) for seed in sorted({run.seed for run in every}))}]
    rows += [{"what": f"runs of {name}", "value": ", ".join(run.id for run in group)} for name, group in runs.items()]
    rows += [{"what": "training time", "value": f"{sum(run.info['timings']['seconds'] for run in every):.1f} s in all"}]
    return table(pd.DataFrame(rows))


def show(*items: object) -> None:
    """Display several things, one below the other; `None` is left out.

    Args:
        *items: Figures, tables, HTML.
    """
    from IPython.display import display

    for item in items:
        if item is not None:
            display(item)


def train_beside_baseline(
    methods: Iterable[Method], task: str, *, scale: str, seeds: int, store: RunStore
) -> dict[str, list[Run]]:
    """Train the baseline and each method on a task. Adapters start from the baseline's trained weights.

    Args:
        methods: The methods.
        task: Name of the task.
        scale: `smoke`, `cpu` or `gpu`.
        seeds: Number of seeds.
        store: Where runs are kept and found.

    Returns:
        `baseline` and each method's id to runs, one a seed.
    """
    runs = {"baseline": [train(task, seed=seed, scale=scale, store=store, progress=True) for seed in range(seeds)]}
    for method in methods:
        begin = [run if method.stage == "adapter" else None for run in runs["baseline"]]
        runs[method.id] = [
            train(task, method, seed=seed, scale=scale, store=store, start=start, progress=True) for seed, start in enumerate(begin)
        ]
    return runs


def first_seed(runs: Mapping[str, list[Run]], probe: str) -> pd.DataFrame:
    """Return one table of the runs of the first seed.

    Args:
        runs: Name to runs.
        probe: A probe.
    """
    return joined({name: group[:1] for name, group in runs.items()}, probe)


def landscapes(runs: Mapping[str, list[Run]], dims: int, *, points: int = 21) -> pd.DataFrame:
    """Return the loss landscapes of the runs of the first seed that finished.

    Args:
        runs: Name to runs.
        dims: 1 or 2.
        points: Points an axis.
    """
    import pandas as pd

    frames = [landscape(group[0], dims, points=points).assign(run=name) for name, group in runs.items() if group[0].status == "finished"]
    return pd.concat(frames, ignore_index=True)


def run_claim(method_id: str, scale: str, *, store: RunStore) -> ClaimResult | None:
    """Check a method's claim, if it has one.

    Args:
        method_id: The method's id.
        scale: `smoke`, `cpu` or `gpu`.
        store: Where runs are kept and found.
    """
    if method_id not in claims.all():
        return None
    return claims.get(method_id).run(scale, store=store, progress=True)


def scoreboard(results: Mapping[str, ClaimResult]) -> Html:
    """Return every claim's verdict in one table.

    Args:
        results: Method id to result.
    """
    import pandas as pd

    rows = []
    for name, result in results.items():
        gates = [item for item in result.verdict.checks if item.check.gate]
        shown = "; ".join(
            f"{item.check.name}: {item.estimate:.3g} [{item.low:.3g}, {item.high:.3g}], needed {item.check.direction} {item.check.threshold:g}"
            for item in gates
        )
        rows.append({
            "method": name, "verdict": result.verdict.outcome, "its control": result.verdict.control_outcome,
            "gating checks, estimate [95 %]": shown, "seeds": len(result.seeds), "scale": result.scale,
        })  # fmt: skip
    return table(pd.DataFrame(rows))
