"""A run as the Python that makes it again, bit for bit."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from wbench.errors import WBenchError
from wbench.knobs import Knobs
from wbench.method import Method, registry
from wbench.recipe import Recipe
from wbench.runs import Run, RunStore
from wbench.task import Task
from wbench.tasks import all as all_tasks
from wbench.tasks import task_text
from wbench.training import PROBES
from wbench.training.identity import class_digest, code_digest
from wbench.training.restore import methods_of, rebuild, task_of

SCALES = ("cpu", "smoke", "gpu")


def script(run: Run, store: RunStore) -> str:
    """Return a script that trains a run again: the same numbers, the same name.

    What it cannot hold (a user's own model and data, models that were never recorded) it names in a comment; where this version
    of wbench or torch would give other numbers, it says so.

    Args:
        run: A recorded run.
        store: Where the run lies; runs that it started from are taken from there.

    Returns:
        Python.
    """
    spec = run.spec
    own = not _known(run)
    notes = _differences(run)
    lines = [f'"""wbench run {run.id}: {run.label}, seed {run.seed}."""', "", "import wbench as wb"]
    given: dict[str, str] = {"seed": repr(run.seed)}
    if own:
        notes.append("task: your own data and model; make it as before with wb.Task.from_arrays(x, y, model=..., ...)")
        task: Task | None = None
        lines += ["", "task = ...  # your own"]
        recipe = _recipe_text(rebuild(Recipe, spec["recipe"]), Recipe())
        given |= {"recipe": recipe}
    else:
        task = task_of(run)
        given |= _recipe(run, task)
    probes, every = tuple(spec["probes"]["names"]), spec["probes"]["every"]
    total = rebuild(Recipe, spec["recipe"]).total_steps
    if probes != PROBES:
        given["probes"] = repr(probes)
    if probes and every != max(1, total // 20):
        given["every"] = repr(every)
    if spec.get("trainable") is not None:
        given["trainable"] = repr(_tuple(spec["trainable"]))
    given |= _others(spec, store, notes)
    given["device"] = repr(spec["device"])
    imports, methods = _methods(run)
    lines[2:3] = [*sorted({"import wbench as wb", *imports})]
    shown = "task" if task is None else repr(task_text(task))
    call = [f"    {shown},", f"    [{', '.join(methods)}],", *(f"    {key}={value}," for key, value in given.items())]
    lines += ["", *(f"# {note}" for note in notes), "run = wb.train(", *call, ")", "print(run.id, run.summary)", ""]
    return "\n".join(lines)


def _known(run: Run) -> bool:
    task = run.spec.get("task") or {}
    return task.get("id") in all_tasks()


def _differences(run: Run) -> list[str]:
    notes = []
    spec = run.spec
    if spec.get("torch") != str(torch.__version__):
        notes.append(
            f"recorded with torch {spec.get('torch')}; this is {torch.__version__}: numbers may differ in their last digits"
        )
    found = registry()
    changed = [m["id"] for m in spec["methods"] if m["id"] in found and m.get("code") != class_digest(found[m["id"]])]
    if spec.get("code") != code_digest() or changed:
        what = f"wbench{' and ' + ', '.join(changed) if changed else ''}"
        notes.append(f"the code of {what} has changed since: the run will have another name, and perhaps other numbers")
    return notes


def _methods(run: Run) -> tuple[set[str], list[str]]:
    import wbench.methods as ours

    imports, texts = set(), []
    for method in methods_of(run):
        cls = type(method)
        if getattr(ours, cls.__name__, None) is cls:
            name = f"wb.methods.{cls.__name__}"
        else:
            imports.add(f"from {cls.__module__} import {cls.__name__}")
            name = cls.__name__
        texts.append(f"{name}({_changed(method)})")
    return imports, texts


def _changed(record: Knobs) -> str:
    fields = type(record).model_fields
    return ", ".join(
        f"{key}={value!r}" for key, value in record if fields[key].is_required() or value != fields[key].default
    )


def _recipe(run: Run, task: Task) -> dict[str, str]:
    """Return what asks for the run's recipe in the fewest words: a scale, or a scale's recipe with changes."""
    wanted = rebuild(Recipe, run.spec["recipe"])
    methods = methods_of(run)
    best: dict[str, str] | None = None
    for scale in SCALES:
        try:
            base = task.recipe(scale)
        except WBenchError:
            continue
        if _advised(base, methods) == wanted:
            return {} if scale == "cpu" else {"scale": repr(scale)}
        changes = {key: value for key, value in wanted if value != getattr(_advised(base, methods), key)}
        tried = base.replace(**changes)
        if _advised(tried, methods) == wanted:
            text = f"wb.tasks.find_task({task_text(task)!r}).recipe({scale!r}).replace({_pairs(changes)})"
            if best is None or len(text) < len(best["recipe"]):
                best = {"recipe": text}
    return best or {"recipe": _recipe_text(wanted, Recipe())}


def _advised(recipe: Recipe, methods: Iterable[Method]) -> Recipe:
    for method in methods:
        recipe = method.recipe(recipe)
    return recipe


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{key}={_value(value)}" for key, value in values.items())


def _value(value: Any) -> str:
    if isinstance(value, tuple) and value and isinstance(value[0], Knobs):
        return f"({', '.join(f'wb.{type(part).__name__}({_changed(part)})' for part in value)},)"
    return repr(value)


def _recipe_text(recipe: Recipe, usual: Recipe) -> str:
    return f"wb.Recipe({_pairs({key: value for key, value in recipe if value != getattr(usual, key)})})"


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _others(spec: dict[str, Any], store: RunStore, notes: list[str]) -> dict[str, str]:
    """Return the arguments that name other models: what the run started from, references, members."""

    def at(name: str) -> str:
        if store.find(name) is None:
            notes.append(f"{name} is no run of {store}: put the model in its place")
            return "..."
        return f"wb.RunStore({store.url!r}).get({name!r})"

    given = {}
    if spec.get("start"):
        given["start"] = at(str(spec["start"]))
    if spec.get("references"):
        given["references"] = (
            "{" + ", ".join(f"{role!r}: {at(name)}" for role, name in spec["references"].items()) + "}"
        )
    if spec.get("members"):
        given["members"] = "{" + ", ".join(f"{role!r}: {at(name)}" for role, name in spec["members"]) + "}"
    return given
