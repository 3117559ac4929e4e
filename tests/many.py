"""Many runs and long ones, made of one that was trained."""

import json

import numpy as np

import wbench as wb
from wbench.runs import run_id

STEPS = 5000


def trained(folder):
    """A short run with every picture."""
    recipe = wb.tasks.find_task("digits").recipe("cpu").replace(steps=100)
    return wb.train("digits", wb.methods.GaLore(rank=4), recipe=recipe, store=wb.RunStore(folder))


def long_runs(folder, count):
    """Runs of 5,000 steps with all metrics and tables, each with a learning rate of its own."""
    one, store, rng = trained(f"{folder}-source"), wb.RunStore(folder), np.random.default_rng(0)
    for number in range(count):
        writer = store.writer({
            **one.spec,
            "recipe": {**one.spec["recipe"], "lr": 0.001 * (number + 1), "steps": STEPS},
        })
        loss = np.exp(-np.arange(STEPS) / 1500) + 0.1 * rng.random(STEPS)
        every = [("train", step) for step in range(1, STEPS + 1)] + [
            ("valid", step) for step in range(250, STEPS + 1, 250)
        ]
        writer.log([
            {"step": step, "phase": "train", "split": split, "name": name, "value": float(loss[step - 1])}
            for name in ("loss", "accuracy") for split, step in every
        ])  # fmt: skip
        for name in one.probes:
            table = one.probe(name)
            writer.table(name, table.assign(step=table["step"] * (STEPS // 100)) if "step" in table else table)
        writer.commit()
    return store


def many_runs(folder, count):
    """Runs of a quarter as many configurations, four seeds each."""
    one, store = trained(f"{folder}-source"), wb.RunStore(folder)
    copies(one, store, range(count))
    return store


def copies(one, store, numbers):
    """Runs that share the files of one, four seeds at each learning rate."""
    content = json.loads((one.path / "run.json").read_text())
    for number in numbers:
        spec = {**one.spec, "seed": number % 4, "recipe": {**one.spec["recipe"], "lr": 1.0 + number // 4}}
        made = store.root / run_id(spec)
        made.mkdir(parents=True, exist_ok=True)
        (made / "run.json").write_text(json.dumps({**content, "id": made.name, "spec": spec}))
        for name in content["files"]:
            (made / name).hardlink_to(one.path / name)
