"""Cells on a study: how metrics, spectrum and effective learning rate answer to knobs."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from wbench.errors import ReportError, StudyError
from wbench.reports.display import Figure, Html, spread, table
from wbench.reports.run_cells import method_card, method_picture
from wbench.runs import Run
from wbench.study import ArmRuns, Outcome, Study
from wbench.study.written import as_code, as_toml
from wbench.tasks import find_task

if TYPE_CHECKING:
    import pandas as pd

MAX_LAYERS = 6
RANKS = {"stable_rank": "stable rank", "effective_rank": "effective rank", "top": "spectral norm"}
RATES = {"relative_update": "relative update", "effective_lr": "effective learning rate"}
CAPTIONS = {
    "metrics": "At the end of training. Points are seeds, lines their mean, bars and bands its 95 % interval (Student's t over seeds); "
    "the ring is the chosen point, crosses are runs that did not finish. The menu switches the metric.",
    "spectrum": "Of the trained weights: stable rank |W|_F^2 / |W|_2^2, effective rank (exponential of the entropy of the singular "
    "values' shares) and spectral norm, of single layers and as mean over all layers. The menu switches between them.",
    "effective_lr": "Mean over the recorded steps after the first. Relative update: |step| / |W|; effective learning rate, where a norm "
    "follows the weight: lr / |W| (Adam) or lr / |W|^2 (SGD). The menu switches between them and the layers.",
}
TITLES = {"metrics": "Metrics", "spectrum": "Spectrum", "effective_lr": "Effective learning rate"}


def planned(study: Study) -> Html:
    """Return what a study will train: arms, their points, seeds, and the method's card.

    Args:
        study: The study.
    """
    import pandas as pd

    arms, recipe = study.plan(), study.recipe or find_task(study.task).recipe(study.scale)
    rows = [
        {"arm": name, "points": len(arm.points()), "runs": len(arm.points()) * len(study.numbers)}
        | {key: ", ".join(map(str, values)) for key, values in arm.grid.items()}
        for name, arm in arms.items()
    ]
    steps = f"{recipe.total_steps} steps of {recipe.optimizer}, batches of {recipe.batch_size}, lr {recipe.lr:g} where not swept"
    words = f"<p>{html.escape(find_task(study.task).title)}: {len(study.numbers)} seeds, {html.escape(steps)}.</p>"
    cards = "".join(method_card(method).text for arm in arms.values() for method in arm.methods)
    return Html(words + table(pd.DataFrame(rows).fillna("")).text + cards)


@dataclass
class Responses:
    """What came of a study, one row a run.

    Attributes:
        study: The study.
        frame: Columns arm, the knobs, seed, status, reason, chosen, and quantities in words.
        knobs: Columns of the knobs.
        quantities: `metrics`, `spectrum` and `effective_lr` to columns.
        found: The runs.
    """

    study: Study
    frame: pd.DataFrame
    knobs: list[str]
    quantities: dict[str, list[str]]
    found: ArmRuns = field(repr=False)

    @property
    def chosen_by(self) -> str:
        """By what the arms' grid points are chosen, in words."""
        (split, (metric, best)), *_ = {(arm.select, arm.select_by) for arm in self.study.plan().values()}
        return f"{'highest' if best == 'max' else 'lowest'} {split} {metric.replace('_', ' ')}"

    @property
    def runs(self) -> dict[str, list[Run]]:
        """Every run of each arm."""
        found: dict[str, list[Run]] = {}
        for (arm, _, _), run in self.found.outcome.runs.items():
            found.setdefault(arm, []).append(run)
        return found


def responses(study: Study) -> Responses:
    """Return what the store has of a study: final metrics, ranks and norms of the weights, how far steps moved them.

    Args:
        study: The study.

    Raises:
        ReportError: If no run finished; says why.
    """
    import pandas as pd

    arms, found = study.plan(), study.look()
    runs, failures = found.outcome.runs, found.outcome.failures
    if not any(run.status == "finished" for run in runs.values()):
        reasons = [*(run.reason for run in runs.values()), *failures.values(), "nothing was trained"]
        raise ReportError(f"no run of the study finished; the first: {reasons[0]}")
    knobs = list(dict.fromkeys([*study.grid, *(key for arm in arms.values() for key in arm.grid)]))
    layers = _largest(run for run in runs.values() if run.status == "finished")
    rows: list[dict[str, Any]] = []
    columns: dict[str, dict[str, None]] = {name: {} for name in TITLES}
    for name, arm in arms.items():
        for index, point in enumerate(arm.points()):
            words = {key: "none" if value is None else value for key, value in point.items()}
            for seed in study.numbers:
                run, failure = runs.get((name, index, seed)), failures.get((name, index, seed))
                status = run.status if run else "missing" if failure is None else "failed"
                row = {
                    "arm": name,
                    **words,
                    "seed": seed,
                    "status": status,
                    "reason": run.reason if run else failure or "",
                }
                row["chosen"] = found.chosen.get(name) == index
                if run is not None and run.status == "finished":
                    for group, numbers in _numbers(run, layers).items():
                        columns[group].update(dict.fromkeys(numbers))
                        row |= numbers
                rows.append(row)
    order = {group: _ordered(group, list(names)) for group, names in columns.items()}
    frame = pd.DataFrame(rows, columns=["arm", *knobs, "seed", "status", "reason", "chosen", *sum(order.values(), [])])
    return Responses(study, frame, knobs, order, found)


def _largest(runs: Iterable[Run]) -> list[str]:
    sizes: dict[str, int] = {}
    for run in runs:
        if "spectrum" in run.probes:
            first = run.probe("spectrum").drop_duplicates("layer")
            sizes |= {
                layer: rows * cols
                for layer, rows, cols in zip(first["layer"], first["rows"], first["cols"], strict=True)
            }
    keep = sorted(sizes, key=lambda layer: -sizes[layer])[:MAX_LAYERS]
    return [layer for layer in sizes if layer in keep]


def _numbers(run: Run, layers: list[str]) -> dict[str, dict[str, float]]:
    """Return a finished run's quantities by group and name."""
    metrics = {
        key.replace(".", " ").replace("_", " ").removeprefix("store "): value for key, value in run.summary.items()
    }
    found: dict[str, dict[str, float]] = {"metrics": {key: math.nan if v is None else v for key, v in metrics.items()}}
    if "spectrum" in run.probes:
        frame = run.probe("spectrum")
        last = frame[(frame["step"] == frame["step"].max()) & (frame["index"] == 1)].set_index("layer")
        found["spectrum"] = _by_layer(last.assign(top=last["singular_value"]), RANKS, layers)
    if "effective_lr" in run.probes:
        frame = run.probe("effective_lr")
        later = frame[frame["step"] > 1] if (frame["step"] > 1).any() else frame
        found["effective_lr"] = _by_layer(later.groupby("layer", sort=False)[list(RATES)].mean(), RATES, layers)
    return found


def _by_layer(frame: pd.DataFrame, names: Mapping[str, str], layers: list[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for column, words in names.items():
        values = frame[column].dropna()
        if len(values):
            found[f"{words}, mean over layers"] = float(values.mean())
            found |= {f"{words} of {layer}": float(values[layer]) for layer in layers if layer in values.index}
    return found


def _ordered(group: str, names: list[str]) -> list[str]:
    if group != "metrics":
        kinds = [*RANKS.values(), *RATES.values()]
        return sorted(names, key=lambda name: [name.startswith(kind) for kind in kinds].index(True))
    splits = ["test", "valid", "train"]

    def place(name: str) -> tuple[int, bool]:
        split = name.split()[0]
        return splits.index(split) if split in splits else len(splits), name.endswith("loss")

    return sorted(names, key=place)


def how_trained(outcome: Outcome) -> Html:
    """Return how many runs trained together in vectorised steps, what did not finish, and what was remarkable.

    Args:
        outcome: Of `Study.run`.
    """
    runs = list(outcome.runs.values())
    together = sum(bool(run.info.get("vectorized")) for run in runs)
    lines = [f"{len(runs)} runs, {together} of them trained in vectorised steps."]
    diverged = sum(run.status == "diverged" for run in runs)
    lines += [f"{diverged} diverged."] if diverged else []
    lines += (
        [f"{len(outcome.failures)} failed; the first: {next(iter(outcome.failures.values()))}"]
        if outcome.failures
        else []
    )
    return Html("".join(f"<p>{html.escape(line)}</p>" for line in [*lines, *outcome.notes]))


def response(found: Responses, what: str) -> Figure | None:
    """Return the figure of one group of quantities; nothing where none was recorded.

    Args:
        found: From `responses`.
        what: `metrics`, `spectrum` or `effective_lr`.
    """
    from wbench import plots

    names = found.quantities[what]
    if not names:
        return None
    few = " With fewer than three seeds the interval is too wide to tell much." if len(found.study.numbers) < 3 else ""
    return Figure(
        plots.response(found.frame, found.knobs, names),
        f"{TITLES[what]} by knob",
        f"{CAPTIONS[what]} Chosen by {found.chosen_by}.{few}",
    )


def chosen_pictures(found: Responses) -> list[Figure]:
    """Return the methods' own pictures of the first seed at the chosen point, where they have one.

    Args:
        found: From `responses`.
    """
    arms, pictures = found.study.plan(), []
    for name, arm in arms.items():
        index = found.found.chosen.get(name, 0)
        run = found.found.outcome.runs.get((name, index, found.study.numbers[0]))
        point = arm.points()[index]
        for method in arm.methods:
            picture = method_picture(run, method) if run is not None else None
            if picture is not None:
                where = ", ".join(f"{key} = {value}" for key, value in point.items())
                picture.caption = f"First seed, at the point of {found.chosen_by}: {where or 'nothing swept'}."
                pictures.append(picture)
    return pictures


def grid_results(found: Responses) -> Html:
    """Return mean and deviation over seeds at every point of every arm's grid, and how many runs finished.

    Args:
        found: From `responses`.
    """
    import pandas as pd

    metrics = [name for name in found.quantities["metrics"] if name.split()[0] in {"test", "valid"}]
    rows = []
    for (arm, *point), part in found.frame.groupby(["arm", *found.knobs], sort=False, dropna=False):
        row: dict[str, Any] = {"arm": arm} | {
            knob: "" if isinstance(value, float) and math.isnan(value) else value
            for knob, value in zip(found.knobs, point, strict=True)
        }
        ended = part[part["status"] == "finished"]
        row |= {"finished": f"{len(ended)} of {len(part)}"} | {name: spread(ended[name].dropna()) for name in metrics}
        row["chosen"] = (
            "chosen" if part["chosen"].all() and len(found.frame[found.frame["arm"] == arm]) > len(part) else ""
        )
        rows.append(row)
    return table(pd.DataFrame(rows))


def failures(found: Responses) -> Html | None:
    """Return the runs that did not finish, and why; nothing when all did.

    Args:
        found: From `responses`.
    """
    frame = found.frame[found.frame["status"] != "finished"]
    if frame.empty:
        return None
    alike = frame.astype({"seed": str}).groupby(["arm", *found.knobs, "status", "reason"], sort=False, dropna=False)
    seeds = alike["seed"].agg(", ".join).rename("seeds").reset_index()
    return table(seeds[["arm", *found.knobs, "seeds", "status", "reason"]])


def written(study: Study) -> Html:
    """Return the Python and the TOML that make the same study.

    Args:
        study: The study.
    """
    try:
        toml = as_toml(study)
    except StudyError as error:
        toml = f"# {error}"
    parts = {"Python": as_code(study), "study.toml, for `wbench study study.toml`": toml}
    return Html("".join(f"<h3>{html.escape(name)}</h3><pre>{html.escape(text)}</pre>" for name, text in parts.items()))
