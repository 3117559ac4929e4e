"""Light runs as the workbench lists them."""

from wbench.method import registry
from wbench.runs.spec import config_id
from wbench.workbench.shelf import Shelf


def shelf_of(store):
    made = Shelf(store)
    made.refresh()
    return made


def config(run):
    return config_id(run.spec)


def put(store, seed=0, task="digits", methods=(), recipe=None, **more):
    """A run of a given description, with one number."""
    spec = {
        "task": {"id": task, **more.pop("options", {})},
        "methods": list(methods),
        "recipe": recipe or {},
        "seed": seed,
        **more,
    }
    writer = store.writer(spec)
    writer.log([{"step": 0, "phase": "train", "split": "test", "name": "accuracy", "value": 0.5}])
    return writer.commit()


def galore(**fields):
    return {"id": "galore", "fields": {**registry()["galore"]().fields(), **fields}, "code": "x"}
