"""Configurations on display: recorded, in the making, without steps, diverged."""

from small_task import arrays

import wbench as wb
from wbench.workbench.shown import LiveRun, Shown


def record_runs(store):
    """Name to the runs of a configuration."""
    recipe = wb.tasks.find_task("digits").recipe("smoke").replace(steps=20)
    galore = wb.methods.GaLore(rank=4, update_proj_gap=5)
    nan = arrays(loss=lambda output, target: output.mean() * float("nan"))
    found = {
        "plain": [wb.train("digits", seed=seed, recipe=recipe, store=store) for seed in range(3)],
        "galore": [wb.train("digits", galore, seed=seed, recipe=recipe, store=store) for seed in range(2)],
        "more steps": [wb.train("digits", recipe=recipe.replace(steps=60, batch_size=16), store=store)],
        "no probes": [wb.train("digits", recipe=recipe, probes=(), store=store)],
        "diverged": [wb.train(nan, store=store)],
        "estimator": [wb.train("quantiles", wb.methods.QuantileAverage(models=("linear", "neighbors")), scale="smoke", store=store)],
    }  # fmt: skip
    members = {str(run.seed): run for run in found["plain"]}
    found["merged"] = [wb.train("digits", "weight_average", members=members, recipe=recipe, store=store)]
    return found


def live_of(run, until):
    live = LiveRun(run.seed, 20)
    rows = run.metrics[(run.metrics["step"] <= until) & (run.metrics["phase"] != "end")]
    live.add_rows(rows.to_dict("records"))
    for name in run.probes:
        frame = run.probe(name)
        if "step" in frame.columns:
            for step in sorted(frame["step"].unique()):
                if step <= until:
                    live.add_table(name, frame[frame["step"] == step])
    return live


def item(runs, name, colour, *, until=None, key=None):
    held = runs[name]
    shown = held if until is None else [live_of(run, until) for run in held]
    recipe = held[0].spec["recipe"]
    methods = tuple(entry["id"] for entry in held[0].spec["methods"])
    return Shown(key or name, name, colour, list(shown), recipe["batch_size"], methods, live=until is not None)
