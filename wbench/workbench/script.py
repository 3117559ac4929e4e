"""A run as the Python that makes it again, bit for bit."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

import wbench.methods as ours
from wbench.errors import UnknownNameError, WBenchError
from wbench.method import Method, get, registry
from wbench.recipe import Recipe
from wbench.runs import Run, RunStore
from wbench.task import Task
from wbench.tasks import all as all_tasks
from wbench.tasks import task_text
from wbench.training import PROBES
from wbench.training.identity import class_digest, code_digest
from wbench.training.restore import rebuild, task_of
from wbench.workbench.source import Expression, call, comment, lines, listed, literal, mapped, plain, record

SCALES = ("cpu", "smoke", "gpu")


def script(run: Run, store: RunStore) -> str:
    """Return a script that trains a run again: the same numbers, the same name.

    What it cannot hold (a user's own model and data, a method that is not installed, models that were never recorded) it names in a
    comment; where this version of wbench or torch would give other numbers, it says so.

    Args:
        run: A recorded run.
        store: Where the run lies; runs that it started from are taken from there.

    Returns:
        Python.
    """
    spec = run.spec
    notes = _differences(run)
    imports, methods = _methods(spec, notes)
    recipe = rebuild(Recipe, spec["recipe"])
    before: list[str] = []
    given: dict[str, Expression] = {"seed": literal(run.seed)}
    if (spec.get("task") or {}).get("id") in all_tasks():
        task = task_of(run)
        shown = literal(task_text(task))
        given |= _recipe(recipe, task, [method for method, _ in methods if method is not None], before)
        if before:
            shown = "task"
    else:
        notes.append("task: your own data and model; make it as before with wb.Task.from_arrays(x, y, model=..., ...)")
        shown = "task"
        before += ["task = ...  # your own"]
        given["recipe"] = record("wb.Recipe", recipe)
    probes, every = tuple(spec["probes"]["names"]), spec["probes"]["every"]
    if probes != PROBES:
        given["probes"] = literal(probes)
    if probes and every != max(1, recipe.total_steps // 20):
        given["every"] = literal(every)
    if spec.get("trainable") is not None:
        held = spec["trainable"]
        given["trainable"] = literal(tuple(held) if isinstance(held, list) else held)
    given |= _others(spec, store, before, notes)
    given["device"] = literal(spec["device"])
    train = call("wb.train", [shown, listed(text for _, text in methods)], given)
    body = [*before, *map(comment, notes), *lines(train, "run = ", whole=True), "print(run.id, run.summary)"]
    head = plain(f"wbench run {run.id}: {run.label}, seed {run.seed}")
    return "\n".join([f'"""{head}."""', "", *sorted({"import wbench as wb", *imports}), "", *body, ""])


def _differences(run: Run) -> list[str]:
    notes = []
    spec = run.spec
    if spec.get("torch") != str(torch.__version__):
        notes.append(
            f"recorded with torch {spec.get('torch')}; this is {torch.__version__}: the run will have another name, and numbers may "
            "differ in their last digits"
        )
    found = registry()
    changed = [m["id"] for m in spec["methods"] if m["id"] in found and m.get("code") != class_digest(found[m["id"]])]
    parts = [*(["wbench"] if spec.get("code") != code_digest() else []), *changed]
    if parts:
        notes.append(
            f"the code of {' and '.join(parts)} has changed since: the run will have another name, and perhaps other numbers"
        )
    return notes


def _methods(spec: dict[str, Any], notes: list[str]) -> tuple[set[str], list[tuple[Method | None, Expression]]]:
    imports: set[str] = set()
    found: list[tuple[Method | None, Expression]] = []
    for entry in spec["methods"]:
        try:
            method: Method = rebuild(get(entry["id"]), entry["fields"])
        except UnknownNameError:
            notes.append(f"method {entry['id']} is not installed: put it in its place with {entry['fields']}")
            found.append((None, "..."))
            continue
        cls = type(method)
        name = f"wb.methods.{cls.__name__}"
        if getattr(ours, cls.__name__, None) is not cls:
            imports.add(f"from {cls.__module__} import {cls.__name__}")
            name = cls.__name__
        found.append((method, record(name, method)))
    return imports, found


def _recipe(wanted: Recipe, task: Task, methods: list[Method], before: list[str]) -> dict[str, Expression]:
    """Return what asks for a recipe in the fewest words: a scale, or a scale's recipe with changes, which is set up before."""
    best: tuple[str, dict[str, Any]] | None = None
    for scale in SCALES:
        try:
            base = task.recipe(scale)
        except WBenchError:
            continue
        advised = _advised(base, methods)
        if advised == wanted:
            return {} if scale == "cpu" else {"scale": literal(scale)}
        changes = {key: value for key, value in wanted if value != getattr(advised, key)}
        if _advised(base.replace(**changes), methods) == wanted and (best is None or len(changes) < len(best[1])):
            best = scale, changes
    before += lines(call("wb.tasks.find_task", [literal(task_text(task))]), "task = ")
    if best is None:
        return {"recipe": record("wb.Recipe", wanted)}
    scale, changes = best
    before.append(f'usual = task.recipe("{scale}")')
    return {"recipe": call("usual.replace", (), {key: literal(value) for key, value in changes.items()})}


def _advised(recipe: Recipe, methods: Iterable[Method]) -> Recipe:
    for method in methods:
        recipe = method.recipe(recipe)
    return recipe


def _others(spec: dict[str, Any], store: RunStore, before: list[str], notes: list[str]) -> dict[str, Expression]:
    """Return the arguments that name other models: what the run started from, references, members."""
    opened = False

    def at(name: str) -> Expression:
        nonlocal opened
        if store.find(name) is None:
            notes.append(f"{name} is no run of {store}: put the model in its place")
            return "..."
        opened = True
        return call("store.get", [literal(name)])

    given: dict[str, Expression] = {}
    if spec.get("start"):
        given["start"] = at(str(spec["start"]))
    if spec.get("references"):
        given["references"] = mapped((role, at(name)) for role, name in spec["references"].items())
    if spec.get("members"):
        given["members"] = mapped((role, at(name)) for role, name in spec["members"])
    if opened:
        before += lines(call("wb.RunStore", [literal(store.url)]), "store = ")
    return given
