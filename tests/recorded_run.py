"""Short runs as a store keeps them, and a question to all."""

import pandas as pd

from wbench import runs as ask

SPEC = {"task": {"id": "digits"}, "methods": [{"id": "galore", "fields": {"rank": 8}}], "recipe": {"lr": 0.1}}


def record(store, seed=0, status="finished", value=0.5, lr=0.1, rank=8, table="spectrum", info=None):
    spec = {**SPEC, "seed": seed, "recipe": {"lr": lr}, "methods": [{"id": "galore", "fields": {"rank": rank}}]}
    writer = store.writer(spec, info)
    writer.log([
        {"step": step, "phase": "train", "split": "test", "name": "accuracy", "value": value * step} for step in range(3)
    ])  # fmt: skip
    writer.table(table, pd.DataFrame({"step": [0, 1], "sigma": [value, 2 * value]}))
    return writer.commit(status)


def total(store):
    frame = ask("SELECT run, max(value) v FROM metrics GROUP BY run", store)
    return frame.set_index("run")["v"].to_dict()
