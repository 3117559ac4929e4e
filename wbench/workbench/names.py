"""What runs are called: methods and settings in short, told by what differs from the usual."""

from __future__ import annotations

from typing import Any

from wbench.method import registry
from wbench.recipe import Recipe
from wbench.tasks import all as all_tasks
from wbench.workbench.controls.scales import text_of

RECIPE = (
    "lr", "steps", "batch_size", "optimizer", "schedule", "weight_decay", "warmup", "final_lr", "momentum", "betas", "eps", "clip"
)  # fmt: skip


def task_short(task: dict[str, Any]) -> str:
    """Return a task's name and the options that are not the usual ones.

    Args:
        task: Its record.
    """
    found = all_tasks().get(str(task.get("id")))
    usual = found().fields() if found is not None else {}
    changed = [f"{key}={_plain(value)}" for key, value in task.items() if key in usual and value != usual[key]]
    named = str(task.get("name") or "") if found is None else ""
    return " ".join(filter(None, [named or str(task.get("id")), *changed]))


def short(task: dict[str, Any], methods: list[dict[str, Any]], recipe: dict[str, Any], usual: Recipe | None) -> str:
    """Return methods and settings in short.

    Args:
        task: The task's record.
        methods: The methods' records.
        recipe: The recipe's fields.
        usual: The recipe from which differences are told, or `None`.
    """
    known = registry()
    parts = []
    for method in methods:
        cls = known.get(str(method["id"]))
        defaults = {k: f.default for k, f in cls.model_fields.items()} if cls is not None else {}
        changed = [
            f"{key}={_plain(value)}" for key, value in method["fields"].items()
            if key in defaults and _plain(value) != _plain(defaults[key])
        ]  # fmt: skip
        parts.append(" ".join([str(method["id"]), *changed]))
    name = " + ".join(parts) or "baseline"
    plain = usual.fields() if usual is not None else {}
    differ = [
        f"{key}={_plain(recipe[key])}" for key in RECIPE if key in recipe and key in plain and recipe[key] != plain[key]
    ]
    return f"{name}, {' '.join(differ)}" if differ else name


def _plain(value: Any) -> str:
    return text_of(tuple(value) if isinstance(value, list) else value).replace(", ", ",")
