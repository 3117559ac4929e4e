"""A study as a TOML file."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wbench.errors import StudyError, WBenchError, closest
from wbench.method import Method, get
from wbench.recipe import Phase
from wbench.runs import RunStore
from wbench.study.arms import Arm
from wbench.study.study import Study
from wbench.tasks import find_task
from wbench.training.recorder import PROBES

TOP = ("task", "scale", "seeds", "recipe", "grid", "arms", "probes", "every", "device", "store")
ARM = tuple(spec.name for spec in dataclasses.fields(Arm))


def read_study(path: str | Path) -> Study:
    """Read a study.

    Keys: `task` (a name, or a table with `id` and options), `scale`, `seeds` (a number or a list), `probes`, `every`, `device`,
    `store`, tables `[recipe]` (changes to the task's), `[grid]` (field or "method.knob" to values), `[arms.NAME]` with `methods`
    (ids, or tables with `id` and knobs) and any of an `Arm`'s other fields; `probes` are the study's where an arm names none.

    Args:
        path: The file.

    Returns:
        The study.

    Raises:
        StudyError: If the file is missing, is no TOML, or has a key or value that is not allowed; names it.
    """
    try:
        with open(path, "rb") as file:
            given = tomllib.load(file)
    except OSError as error:
        raise StudyError(f"{path} cannot be read: {error.strerror or error}") from None
    except tomllib.TOMLDecodeError as error:
        raise StudyError(f"{path} is no TOML: {error}") from None
    try:
        return _study(given)
    except StudyError as error:
        raise StudyError(f"{path}: {error}") from None
    except WBenchError as error:
        raise type(error)(f"{path}: {error}") from None


def _study(given: dict[str, Any]) -> Study:
    _known(given, TOP, "")
    if "task" not in given:
        raise StudyError("the key 'task' is missing; e.g. task = \"digits\"")
    task, scale = _task(given["task"]), given.get("scale", "cpu")
    probes = tuple(_list(given.get("probes", list(PROBES)), "probes"))
    arms = {
        name: _arm(name, _table(arm, f"arms.{name}"), probes)
        for name, arm in _table(given.get("arms", {"baseline": {}}), "arms").items()
    }
    return Study(
        task, arms, {key: _list(values, f"grid.{key}") for key, values in _table(given.get("grid", {}), "grid").items()},
        given.get("seeds", 8), task.recipe(scale).replace(**_recipe(given.get("recipe", {}))), scale, probes,
        given.get("every"), given.get("device", "auto"), RunStore(given["store"]) if "store" in given else None,
    )  # fmt: skip


def _arm(name: str, given: dict[str, Any], probes: tuple[str, ...]) -> Arm:
    where = f"arms.{name}"
    _known(given, ARM, where)
    own: dict[str, Any] = {"probes": list(probes), **given}
    own["methods"] = tuple(_method(entry, where) for entry in _list(given.get("methods", []), f"{where}.methods"))
    own["probes"] = tuple(_list(own["probes"], f"{where}.probes"))
    for key in ("trainable", "select_by"):
        if isinstance(own.get(key), list):
            own[key] = tuple(own[key])
    if "grid" in given:
        grid = _table(given["grid"], f"{where}.grid")
        own["grid"] = {key: tuple(_list(values, f"{where}.grid.{key}")) for key, values in grid.items()}
    if "task" in given:
        own["task"] = _task(given["task"])
    for key in ("recipe", "at_smoke"):
        own[key] = _recipe(given.get(key, {}), key)
    return Arm(**own)


def _method(entry: Any, where: str) -> Method:
    if isinstance(entry, str):
        return get(entry)()
    fields = _table(entry, f"{where}.methods")
    if "id" not in fields:
        raise StudyError(f"{where}.methods: a method needs its id; got {fields}")
    return get(fields["id"])(**{key: _tuples(value) for key, value in fields.items() if key != "id"})


def _task(given: Any) -> Any:
    if isinstance(given, str):
        return find_task(given)
    fields = dict(_table(given, "task"))
    if "id" not in fields:
        raise StudyError(f"task: a task needs its id; got {fields}")
    return find_task(fields.pop("id")).replace(**{key: _tuples(value) for key, value in fields.items()})


def _recipe(given: Any, where: str = "recipe") -> dict[str, Any]:
    fields = {key: _tuples(value) for key, value in _table(given, where).items()}
    if "phases" in fields:
        fields["phases"] = tuple(Phase(**phase) for phase in fields["phases"])
    return fields


def _tuples(value: Any) -> Any:
    return tuple(_tuples(part) for part in value) if isinstance(value, list) else value


def _known(given: Mapping[str, Any], allowed: tuple[str, ...], where: str) -> None:
    for key in given:
        if key not in allowed:
            place = f"{where}: " if where else ""
            raise StudyError(f"{place}the key '{key}' is not allowed.{closest(key, allowed)}")


def _table(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise StudyError(f"{where}={value!r} is not allowed; allowed: a table")
    return value


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise StudyError(f"{where}={value!r} is not allowed; allowed: a list of values")
    return value
