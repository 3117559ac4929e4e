"""A study written out: as the TOML and as the Python that make the same one."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from wbench.errors import StudyError
from wbench.knobs import Knobs
from wbench.study.arms import Arm
from wbench.study.study import Study
from wbench.tasks import find_task
from wbench.training.job import as_methods


def as_toml(study: Study) -> str:
    """Return the file for `wbench study FILE.toml` that makes the same runs.

    Args:
        study: A study whose arms have no task of their own.

    Raises:
        StudyError: If the study has a value that TOML has no word for.
    """
    top, tables = _described(study), []
    for place in ("recipe", "grid"):
        if top[place]:
            tables += ["", f"[{place}]", *(f"{_key(key)} = {_toml(value, key)}" for key, value in top[place].items())]
    for name, arm in top["arms"].items():
        tables += ["", f"[arms.{_key(name)}]", *(f"{_key(key)} = {_toml(value, key)}" for key, value in arm.items())]
    lines = [f"{key} = {_toml(value, key)}" for key, value in top.items() if key not in {"recipe", "grid", "arms"}]
    return "\n".join([*lines, *tables]) + "\n"


def as_code(study: Study) -> str:
    """Return the Python that makes the same study.

    Args:
        study: A study whose arms have no task of their own.
    """
    top = _described(study)
    task, recipe = _task(top["task"]), ""
    if top["recipe"]:
        changes = ", ".join(
            f"{key}={_phases(value) if key == 'phases' else repr(value)}" for key, value in top["recipe"].items()
        )
        recipe = f"\n    recipe=task.recipe({top['scale']!r}).replace({changes}),"
    arms = "".join(f"\n        {name!r}: {_arm(arm, top['probes'])}," for name, arm in top["arms"].items())
    grid = "".join(f"\n        {key!r}: {values!r}," for key, values in top["grid"].items())
    rest = "".join(
        f"\n    {key}={f'wb.RunStore({value!r})' if key == 'store' else repr(value)},"
        for key, value in top.items()
        if key not in {"task", "recipe", "grid", "arms"}
    )
    body = f"\n    task,\n    {{{arms}\n    }},\n    {{{grid}\n    }},{recipe}{rest}\n"
    return f"import wbench as wb\n\ntask = {task}\nstudy = wb.Study({body})\nstudy.run(progress=True)\nstudy.frame()\n"


def _described(study: Study) -> dict[str, Any]:
    """Return a study in plain values, by the keys of its TOML."""
    task = find_task(study.task)
    found: dict[str, Any] = {
        "task": _changed(task) if _changed(task).keys() > {"id"} else task.id,
        "scale": study.scale,
    }
    found |= {"seeds": study.seeds if isinstance(study.seeds, int) else list(study.seeds)}
    found |= {"probes": list(study.probes)}
    found |= {key: getattr(study, key) for key in ("every",) if study.every is not None}
    found |= {"device": study.device} if study.device != "auto" else {}
    found |= {"store": study.store.url} if study.store is not None else {}
    usual, recipe = task.recipe(study.scale).fields(), (study.recipe or task.recipe(study.scale)).fields()
    found["recipe"] = {key: value for key, value in recipe.items() if value != usual[key]}
    found["grid"] = {key: [_listed(value) for value in values] for key, values in study.grid.items()}
    found["arms"] = {name: _plain_arm(name, arm, study.probes) for name, arm in study.arms.items()}
    return found


def _plain_arm(name: str, given: Any, probes: Sequence[str]) -> dict[str, Any]:
    arm = given if isinstance(given, Arm) else Arm(as_methods(given), probes=tuple(probes))
    if arm.task is not None:
        raise StudyError(f"arm '{name}' has a task of its own, which is not written out; build the study in Python")
    plain: dict[str, Any] = {"methods": [_changed(method) for method in arm.methods]} if arm.methods else {}
    for spec in fields(Arm):
        value = getattr(arm, spec.name)
        if spec.name not in {"methods", "task", "probes"} and value != getattr(Arm(), spec.name):
            plain[spec.name] = dict(value) if isinstance(value, Mapping) else _listed(value)
    return plain | ({"probes": list(arm.probes)} if tuple(arm.probes) != tuple(probes) else {})


def _changed(made: Knobs) -> dict[str, Any]:
    """Return id and what differs from the defaults."""
    now, specs = made.fields(), type(made).knobs()
    return {"id": made.id} | {key: now[key] for key, spec in specs.items() if getattr(made, key) != spec.default}


def _listed(value: Any) -> Any:
    return [_listed(part) for part in value] if isinstance(value, tuple | list) else value


def _task(given: Any) -> str:
    options = given if isinstance(given, dict) else {"id": given}
    changes = ", ".join(f"{key}={value!r}" for key, value in options.items() if key != "id")
    return f"wb.tasks.get({options['id']!r})({changes})"


def _arm(arm: Mapping[str, Any], probes: list[str]) -> str:
    made = [
        f"wb.methods.get({method['id']!r})({', '.join(f'{k}={v!r}' for k, v in method.items() if k != 'id')})"
        for method in arm.get("methods", [])
    ]
    rest = {key: value for key, value in arm.items() if key not in {"methods", "probes"}}
    if not rest and "probes" not in arm:
        return "None" if not made else made[0] if len(made) == 1 else f"[{', '.join(made)}]"
    methods = "".join(f"{method}, " for method in made)
    words = [f"{key}={value!r}" for key, value in (rest | {"probes": tuple(arm.get("probes", probes))}).items()]
    return f"wb.Arm(({methods}), {', '.join(words)})"


def _phases(given: list[dict[str, Any]]) -> str:
    return f"[{', '.join(f'wb.Phase(**{phase!r})' for phase in given)}]"


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name, ensure_ascii=False)


def _toml(value: Any, key: str) -> str:
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{_key(str(name))} = {_toml(part, key)}' for name, part in value.items())} }}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_toml(part, key) for part in value)}]"
    if value is None:
        raise StudyError(f"{key}: TOML has no word for 'none'; use the Python")
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value).lower() if isinstance(value, bool) else repr(value)
