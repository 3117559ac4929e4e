"""From what trains and what is ticked to what is on display, to start from, and to combine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from wbench.errors import RunError
from wbench.method import Method
from wbench.recipe import Recipe
from wbench.runs import Run
from wbench.task import Task
from wbench.training.restore import methods_of, rebuild, task_of
from wbench.workbench.jobs import Wanted
from wbench.workbench.shelf import Shelf
from wbench.workbench.shown import Shown


def on_display(
    shelf: Shelf, training: Mapping[str, list[Wanted]], keys: Sequence[str]
) -> tuple[list[Shown], list[str]]:
    """Return what to draw: what trains first, then the configurations asked for that have runs.

    Args:
        shelf: The recorded runs.
        training: The runs that train, by their configuration.
        keys: Configurations.

    Returns:
        What to draw, and the configurations whose runs are gone.
    """
    wanted = list(dict.fromkeys([*training, *keys]))
    recorded, gone = shelf.shown([key for key in wanted if key in shelf.groups])
    by_key = {item.key: item for item in recorded}
    for key, runs in training.items():
        by_key[key] = _in_the_making(shelf, key, runs, by_key.get(key))
    return [by_key[key] for key in wanted if key in by_key], gone


def _in_the_making(shelf: Shelf, key: str, training: list[Wanted], recorded: Shown | None) -> Shown:
    first, seeds = training[0], {wanted.live.seed for wanted in training}
    live = [wanted.live for wanted in training if wanted.live.step or wanted.live.probes]
    ended = [run for run in (recorded.runs if recorded is not None else []) if run.seed not in seeds]
    methods = tuple(method.id for method in first.job.methods)
    return Shown(
        key, first.name, shelf.marks.colour(key), [*live, *ended], first.job.recipe.batch_size, methods, live=True
    )


def startable(shelf: Shelf, keys: Sequence[str]) -> dict[str, tuple[str, Callable[[], Run | None]]]:
    """Return the runs that can be started from: of each configuration the first that has finished.

    Args:
        shelf: The recorded runs.
        keys: Configurations.

    Returns:
        Run to its label and a function that opens it.
    """
    found: dict[str, tuple[str, Callable[[], Run | None]]] = {}
    for key in keys:
        entry = next((entry for entry in shelf.groups.get(key, ()) if entry.status == "finished"), None)
        if entry is not None:
            found[entry.id] = (f"{shelf.name(key)}, seed {entry.seed}", partial(shelf.run, entry.id))
    return found


def members(shelf: Shelf, keys: Sequence[str]) -> dict[str, Run]:
    """Return the finished runs of configurations, for a method that combines models.

    Args:
        shelf: The recorded runs.
        keys: Configurations.

    Returns:
        Name to run.
    """
    found = {}
    for key in keys:
        for entry in shelf.groups.get(key, ()):
            run = shelf.run(entry.id) if entry.status == "finished" else None
            if run is not None:
                found[f"{shelf.name(key)} {entry.seed}"] = run
    return found


def settings_of(shelf: Shelf, key: str) -> tuple[Task | None, list[Method], Recipe, int]:
    """Return what the controls need to stand for a configuration.

    Args:
        shelf: The recorded runs.
        key: The configuration.

    Returns:
        Task (`None`: the user's own, which stands on the controls already), methods, recipe, seed.

    Raises:
        RunError: If its runs are gone.
    """
    entries = shelf.groups.get(key)
    run = shelf.run(entries[0].id) if entries else None
    if run is None:
        raise RunError(f"the runs of {shelf.name(key)} are gone from {shelf.store}")
    try:
        task: Task | None = task_of(run)
    except RunError:
        task = None
    return task, methods_of(run), rebuild(Recipe, run.spec["recipe"]), run.seed
