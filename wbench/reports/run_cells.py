"""Cells on runs: training beside a baseline, results, landscapes, provenance."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from wbench.errors import ReportError
from wbench.method import Method
from wbench.reports.display import Figure, Html, resolve, spread, table
from wbench.runs import Run, RunStore
from wbench.study import Arm, Runner, run_arms
from wbench.study.show import bar
from wbench.tasks import find_task
from wbench.training import PROBES, restore, task_of
from wbench.training.device import derive
from wbench.training.restore import estimator_method

if TYPE_CHECKING:
    import pandas as pd


def method_card(method: Method) -> Html:
    """Return who a method is, and its knobs with the values in use.

    Args:
        method: The method.
    """
    cls, paper = type(method), type(method).paper
    source = ""
    if paper is not None:
        cited = f"{paper.authors}. {paper.title}. {paper.venue or paper.year}"
        source = f"<p>{html.escape(cited)}{f', arXiv:{html.escape(paper.arxiv)}' if paper.arxiv else ''}</p>"
    facts = f"<p>Stage: {cls.stage}. Follows the {cls.fidelity if cls.fidelity != 'inferred' else 'paper, in part inferred'}.</p>"
    rows = "".join(
        f"<tr><td><code>{name}</code></td><td>{html.escape(str(getattr(method, name)))}</td>"
        f"<td>{html.escape(spec.allowed)}</td><td>{html.escape(spec.doc)}</td></tr>"
        for name, spec in cls.knobs().items()
    )
    head = "<tr><th>knob</th><th>value</th><th>allowed</th><th>what it does</th></tr>"
    return Html(f"<h3>{html.escape(cls.title)}</h3>{source}{facts}<div class='wide'><table>{head}{rows}</table></div>")


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


def landscape(run: Run, dims: int = 1, *, points: int = 21, samples: int = 256) -> pd.DataFrame:
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
        row: dict[str, Any] = {
            "run": name,
            "seeds": len(runs_),
            "status": ", ".join(sorted({run.status for run in runs_})),
        }
        for key in dict.fromkeys(key for run in runs_ for key in run.summary if key.startswith("test.")):
            values = [run.summary.get(key) for run in runs_]
            row[key] = spread([float("nan") if value is None else value for value in values])
        for key in ("trainable", "optimizer_numbers"):
            value = runs_[0].summary.get(f"store.{key}")
            row[key.replace("_", " ")] = None if value is None else int(value)
        row["seconds"] = sum(run.info["timings"]["seconds"] for run in runs_) / len(runs_)
        rows.append(row)
    return table(pd.DataFrame(rows))


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


def train_beside_baseline(
    methods: Iterable[Method], task: str, *, scale: str, seeds: int, store: RunStore
) -> dict[str, list[Run]]:
    """Train the baseline and each method on a task.

    Adapters start from the baseline's trained weights, transforms act on them without training, and what merges models gets three:
    the baseline trained on at half, once and twice its rate.

    Args:
        methods: The methods.
        task: Name of the task, and its options.
        scale: `smoke`, `cpu` or `gpu`.
        seeds: Number of seeds.
        store: Where runs are kept and found.

    Returns:
        `baseline` and each method's id to runs, one a seed.

    Raises:
        ReportError: If runs failed; says which and why.
    """
    found = find_task(task)
    recipe, chosen = found.recipe(scale), list(methods)
    arms = {"baseline": Arm(probes=PROBES)}
    members = {f"rate x {factor:g}": factor for factor in (0.5, 1.0, 2.0)}
    if any(method.stage == "population" for method in chosen):
        arms |= {
            name: Arm(start="baseline", recipe={"lr": factor * recipe.lr}, probes=())
            for name, factor in members.items()
        }
    for method in chosen:
        arms[method.id] = _beside(method, members)
    with bar(True, task) as told, Runner(store, total=len(arms) * seeds, told=told) as runner:
        trained = run_arms(arms, found, recipe, range(seeds), runner.run)
    if trained.outcome.failures:
        (arm, _, seed), reason = next(iter(trained.outcome.failures.items()))
        raise ReportError(
            f"{len(trained.outcome.failures)} run(s) failed, the first of {arm} with seed {seed}: {reason}"
        )
    return {name: runs for name, runs in trained.at_chosen().items() if name not in members}


def _beside(method: Method, members: Iterable[str]) -> Arm:
    if method.stage == "population":
        return Arm((method,), references={"base": "baseline"}, members={name: name for name in members}, probes=PROBES)
    if method.stage == "transform":
        return Arm((method,), start="baseline", recipe={"steps": 0, "phases": (), "warmup": 0}, probes=PROBES)
    return Arm((method,), start="baseline" if method.stage == "adapter" else None, probes=PROBES)


def first_seed(runs: Mapping[str, list[Run]], probe: str) -> pd.DataFrame:
    """Return one table of the runs of the first seed.

    Args:
        runs: Name to runs.
        probe: A probe.
    """
    return joined({name: group[:1] for name, group in runs.items()}, probe)


POINTS = {"smoke": {1: 9, 2: 5}, "cpu": {1: 21, 2: 11}, "gpu": {1: 21, 2: 11}}  # an axis


def landscapes(runs: Mapping[str, list[Run]], dims: int, *, scale: str = "cpu") -> pd.DataFrame:
    """Return the loss landscapes of the runs of the first seed that finished; a fitted estimator has none.

    Args:
        runs: Name to runs.
        dims: 1 or 2.
        scale: `smoke` evaluates a fifth of the points.
    """
    import pandas as pd

    points = POINTS[scale][dims]
    frames = [
        landscape(group[0], dims, points=points).assign(run=name)
        for name, group in runs.items()
        if group[0].status == "finished" and estimator_method(group[0]) is None
    ]
    return pd.concat(frames, ignore_index=True)
