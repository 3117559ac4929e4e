"""A study from a notebook's parameters."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from typing import Any

from wbench.errors import StudyError, closest
from wbench.knobs import Knob, Knobs
from wbench.method import Method, get
from wbench.runs import RunStore
from wbench.study import Arm, Study
from wbench.study.study import step_count
from wbench.tasks import find_task
from wbench.training.job import as_methods

PROBES = ("spectrum", "effective_lr")
RECORDS = 4  # of the probes, after the first step
VALUES = 5  # of a knob whose values are not given
DECADES = 4  # below the highest value, where a logarithmic range begins with zero
EXAMPLE = {"settings": '{"update_proj_gap": 50}', "grid": '{"rank": [2, 8], "lr": []}'}


def sweep(
    task: str,
    method: str,
    settings: str,
    grid: str,
    *,
    seeds: int = 8,
    scale: str = "cpu",
    store: RunStore | None = None,
) -> Study:
    """Plan the study of a method's knobs, or of fields of the recipe, beside the baseline.

    Names without a dot are fields of the recipe (`lr`) or, where it has none of that name, knobs of the method (`rank`).

    Args:
        task: Name of the task.
        method: Id of the method; empty: the baseline alone.
        settings: JSON object, name to value: what stays fixed.
        grid: JSON object, name to list of values; an empty list, or a name alone, takes values over the range of its slider.
        seeds: How many.
        scale: `smoke`, `cpu` or `gpu`.
        store: Where runs are kept; default as `train`.

    Returns:
        The study. An adapter starts from the baseline's trained weights; the baseline is not swept then. Grid points are chosen
        by validation loss, or by the mean training loss where the task has no validation data.

    Raises:
        StudyError: If `settings`, `grid` or `seeds` is not allowed; names it.
        WBenchError: If task, scale, method, a knob or a value is not allowed; names it.
    """
    subject, recipe = get(method) if method else None, find_task(task).recipe(scale)
    fixed: dict[str, Any] = {}
    for name, value in _object(settings, "settings").items():
        key, spec = _named(name, subject, recipe, "settings")
        fixed[key] = spec.parse(value if isinstance(value, str) else json.dumps(value))
    recipe = recipe.replace(**{key: value for key, value in fixed.items() if "." not in key})
    own = {key.partition(".")[2]: value for key, value in fixed.items() if "." in key}
    methods: tuple[Method, ...] = (subject(**own),) if subject else ()
    now = {**dict(recipe), **{f"{made.id}.{key}": value for made in methods for key, value in made}}
    values: dict[str, list[Any]] = {}
    for name, given in _object(grid, "grid").items():
        key, spec = _named(name, subject, recipe, "grid")
        if key in values or given is not None and not isinstance(given, list):
            raise StudyError(
                f"grid: {name}={given!r} is not allowed; allowed: each name once, with a list of values or [] for its slider's range"
            )
        values[key] = [spec.parse(v) if isinstance(v, str) else v for v in given or ()] or values_of(spec, now[key])
    if not values:
        raise StudyError(f"grid={grid!r} sweeps nothing; allowed: a JSON object such as {EXAMPLE['grid']}")
    if isinstance(seeds, bool) or not isinstance(seeds, int):
        raise StudyError(f"seeds={seeds!r} is not allowed; allowed: a positive integer")
    arms: dict[str, Any] = {"baseline": None}
    if subject:
        arms[subject.id] = Arm(methods, start="baseline", probes=PROBES) if subject.stage == "adapter" else methods[0]
    if "valid" not in find_task(task).data(0):  # then the mean loss of training, which decides as well while it goes on
        made = {
            name: arm if isinstance(arm, Arm) else Arm(as_methods(arm), probes=PROBES) for name, arm in arms.items()
        }
        arms = {name: replace(arm, select="train", select_by=("mean_loss", "min")) for name, arm in made.items()}
    study = Study(task, arms, values, seeds, recipe, scale, PROBES, store=store)
    steps = min(step_count(arm, recipe) for arm in study.plan().values())
    return replace(study, every=max(1, steps // RECORDS))


def values_of(spec: Knob, now: Any = None) -> list[Any]:
    """Return about five values over the range of a knob's slider, the present one among them.

    Args:
        spec: The knob.
        now: Its present value.

    Raises:
        StudyError: If the knob has no range to take values from.
    """
    if spec.kind == "bool":
        return [False, True]
    if spec.scale == "choice":
        return list(spec.choices)
    if spec.kind not in {"int", "float"} or spec.slider is None:
        raise StudyError(f'grid: {spec.name} has no range to take values from; name them: {{"{spec.name}": [...]}}')
    low, high = spec.slider
    log = spec.scale in {"log", "log0"}
    first = low if low > 0 or not log else 1.0 if spec.kind == "int" else high / 10**DECADES
    count = VALUES - (first != low)
    shares = [place / (count - 1) for place in range(count)]
    found = [first * (high / first) ** share if log else first + share * (high - first) for share in shares]
    found = [first, *(min(max(float(f"{value:.2g}"), low), high) for value in found[1:-1]), high]
    if isinstance(now, int | float) and first <= now <= high:
        scale = math.log if log else float
        found[min(range(count), key=lambda place: abs(scale(found[place]) - scale(now)))] = now
    found = [low] * (first != low) + found
    return list(dict.fromkeys(round(value) if spec.kind == "int" else float(value) for value in found))


def _object(given: str, name: str) -> dict[str, Any]:
    wrong = f"{name}={given!r} is not allowed; allowed: a JSON object such as {EXAMPLE[name]}"
    if not isinstance(given, str):
        raise StudyError(wrong)
    if name == "grid" and re.fullmatch(r"[A-Za-z_][\w.]*", given.strip()):
        return {given.strip(): None}
    try:
        read = json.loads(given.strip() or "{}", object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise StudyError(f"{wrong} ({error})") from None
    if name == "grid" and isinstance(read, str | list) and all(isinstance(part, str) for part in read):
        return _once([(part, None) for part in ([read] if isinstance(read, str) else read)])
    if not isinstance(read, dict):
        raise StudyError(wrong)
    return read


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    for place, (name, _) in enumerate(pairs):
        if name in dict(pairs[:place]):
            raise StudyError(f"'{name}' is named twice; allowed: once")
    return dict(pairs)


def _named(name: str, subject: type[Method] | None, recipe: Knobs, where: str) -> tuple[str, Knob]:
    # a knob's full name, as grids have it, and what is known of it
    knobs, own = subject.knobs() if subject else {}, name.removeprefix(f"{subject.id}." if subject else "")
    if name in type(recipe).knobs():
        return name, type(recipe).knobs()[name]
    if subject and own in knobs:
        return f"{subject.id}.{own}", knobs[own]
    who = f"neither the recipe nor {subject.id} has" if subject else "the recipe does not have"
    raise StudyError(f"{where}: {who} '{name}'.{closest(name, [*type(recipe).knobs(), *knobs])}")
