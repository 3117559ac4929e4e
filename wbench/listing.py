"""Plain-text tables for the command line and the README."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wbench.errors import KnobError
from wbench.method import Method, registry

if TYPE_CHECKING:
    import pandas as pd

    from wbench.claims import ClaimResult
    from wbench.runs import Run, RunStore


def grid(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return an aligned text table.

    Args:
        head: Column names.
        rows: Cells.

    Returns:
        Lines.
    """
    lines = [[str(cell) for cell in row] for row in [head, *rows]]
    widths = [max(len(row[index]) for row in lines) for index in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in lines
    )


def _chosen(topic: str = "", stage: str = "") -> list[type[Method]]:
    return [
        cls
        for cls in registry().values()
        if (not stage or cls.stage == stage)
        and (not topic or any(topic.lower() in word.lower() for word in cls.topics))
    ]


def plain_table(topic: str = "", stage: str = "") -> str:
    """Return the methods as text.

    Args:
        topic: Only those with this topic, or part of it.
        stage: Only those of this stage.

    Returns:
        A table.

    Raises:
        KnobError: If none matches; names topics and stages.
    """
    found = _chosen(topic, stage)
    if not found:
        stages = sorted({cls.stage for cls in registry().values()})
        topics = sorted({word for cls in registry().values() for word in cls.topics})
        raise KnobError(
            f"no method has topic={topic!r} and stage={stage!r}; stages: {', '.join(stages)}; topics: {', '.join(topics)}"
        )
    return grid(["id", "stage", "kind", "title"], [(cls.id, cls.stage, cls.kind, cls.title) for cls in found])


def markdown_table() -> str:
    """Return the methods as the README's table."""
    lines = ["| id | what | stage | paper | follows |", "|---|---|---|---|---|"]
    for cls in registry().values():
        first, _, others = cls.paper.authors.partition(",") if cls.paper else ("", "", "")
        paper = f"[{first}{' et al.' if others else ''}, {cls.paper.year}]({cls.paper.url})" if cls.paper else ""
        follows = {"paper": "the paper", "code": "the authors' code", "inferred": "the paper, in part inferred"}[
            cls.fidelity
        ]
        kind = "" if cls.kind == "method" else " (baseline)"
        lines.append(f"| `{cls.id}` | {cls.title}{kind} | {cls.stage} | {paper} | {follows} |")
    return "\n".join(lines)


def probe_table(path: str, name: str, layers: str, nonfinite: str, out: str) -> str:
    """Probe a checkpoint and return one row a layer.

    Args:
        path: The checkpoint.
        name: `spectrum`, `histogram` or `summary`.
        layers: Glob over layer names.
        nonfinite: `raise` or `skip`.
        out: File for the whole table, or empty.

    Returns:
        A table.

    Raises:
        KnobError: If the probe does not exist or `out` has another ending.
    """
    from wbench import checkpoints, probes

    if nonfinite not in {"raise", "skip"}:
        raise KnobError(f"--nonfinite {nonfinite!r} is not allowed; allowed: raise, skip")
    if name == "summary":
        frame = checkpoints.summary(path)
        columns = ["name", "dtype", "shape", "numel", "bytes"]
    elif name == "spectrum":
        frame = probes.spectrum(path, layers=layers, nonfinite=nonfinite)
        columns = ["layer", "rows", "cols", "stable_rank", "effective_rank", "frobenius_norm"]
    elif name == "histogram":
        frame = probes.histogram(path, layers=layers, nonfinite=nonfinite)
        columns = ["layer", "shape", "std", "near_zero_share", "max_z", "kurtosis"]
    else:
        raise KnobError(f"--probe {name!r} is not allowed; allowed: spectrum, histogram, summary")
    if out:
        written_table(out, frame)
    rows = frame[columns].drop_duplicates(columns[:1]).to_dict("records") if len(frame) else []
    return grid(
        columns, [[f"{value:.4g}" if isinstance(value, float) else value for value in row.values()] for row in rows]
    )


def written_table(out: str, frame: pd.DataFrame) -> None:
    """Write a table to the file of `--out`.

    Args:
        out: As given; .parquet or .csv.
        frame: The table.

    Raises:
        KnobError: If the ending is another, or the file cannot be written.
    """
    writers: dict[str, Any] = {".parquet": frame.to_parquet, ".csv": frame.to_csv}
    if Path(out).suffix not in writers:
        raise KnobError(f"--out {out!r} is not allowed; allowed endings: .parquet, .csv")
    written(out, lambda file: writers[file.suffix](file, index=False))


def written(out: str, write: Callable[[Path], object]) -> None:
    """Write the file of `--out`.

    Args:
        out: As given.
        write: Writes it.

    Raises:
        KnobError: If it cannot be written; names it and the cause.
    """
    try:
        write(Path(out))
    except OSError as error:
        raise KnobError(f"--out {out!r} cannot be written: {error.strerror or error}; choose another file") from error


def run_text(run: Run) -> str:
    """Return a run as text.

    Args:
        run: The run.

    Returns:
        Lines.
    """
    rows = [("run", run.id), ("what", run.label), ("seed", run.seed), ("status", run.status)]
    rows += [("reason", run.reason)] if run.reason else []
    rows += [
        (entry["id"], ", ".join(f"{k}={v}" for k, v in entry["fields"].items()))
        for entry in run.spec.get("methods", [])
    ]
    rows += [(name, "not finite" if value is None else f"{value:.5g}") for name, value in run.summary.items()]
    rows += [
        ("seconds", f"{run.info.get('timings', {}).get('seconds', 0.0):.2f}"),
        ("tables", ", ".join(run.probes)),
        ("folder", run.path),
    ]
    return "\n".join(f"{name:<24}{value}" for name, value in rows)


def runs_table(store: RunStore) -> str:
    """Return the runs of a store as text.

    Args:
        store: The store.

    Returns:
        A table, or a sentence when it is empty.
    """
    rows = []
    for run in store.runs():
        shown = {key: value for key, value in run.summary.items() if key.startswith("test.") and value is not None}
        metric = ", ".join(f"{key[5:]}={value:.4g}" for key, value in shown.items())
        rows.append((run.id, run.label, run.seed, run.status, metric))
    return grid(["id", "what", "seed", "status", "test metrics"], rows) if rows else f"no runs in {store}"


def study_text(frame: pd.DataFrame) -> str:
    """Return the runs of a study as text: one row a setting, with mean and spread over the seeds, and what failed.

    Args:
        frame: From `Study.frame`.

    Returns:
        Lines.
    """
    columns = list(frame.columns)
    settings = columns[: columns.index("seed")]
    metrics = [name for name in columns if name in {"metric.test.accuracy", "metric.test.loss"}]
    rows = []
    for values, group in frame.groupby(settings, sort=False, dropna=False):
        shown = ["" if value != value else str(value) for value in values]
        counts = group["status"].value_counts()
        row = [*shown, ", ".join(f"{count} {status}" for status, count in counts.items())]
        for name in metrics:
            known = group.loc[group["status"] == "finished", name].dropna()
            spread = f" +- {known.std():.2g}" if len(known) > 1 else ""
            row.append(f"{known.mean():.4g}{spread}" if len(known) else "")
        rows.append(tuple(row))
    lines = [grid([*settings, "runs", *(name.removeprefix("metric.") for name in metrics)], rows)]
    if metrics:
        lines.append("+-: standard deviation over seeds")
    failed = frame[frame["status"].isin(["failed", "diverged"])]
    for _, item in failed.iterrows():
        where = ", ".join(f"{name}={item[name]}" for name in settings[1:] if item[name] == item[name])
        lines.append(
            f"{item['status']}: {item['arm']}, {where + ', ' if where else ''}seed={item['seed']}: {item['reason']}"
        )
    return "\n".join(lines)


def claim_text(result: ClaimResult) -> str:
    """Return a claim's result as text.

    Args:
        result: The result.

    Returns:
        Lines.
    """
    found = result.verdict
    head = f"{result.claim.id}: {found.outcome} ({found.reason}); control '{result.claim.control}': {found.control_outcome}"
    rows = []
    for role, results in (("method", found.checks), ("control", found.control_checks)):
        for item in results:
            check = item.check
            interval = f"{item.estimate:.4g} [{item.low:.4g}, {item.high:.4g}]"
            rows.append((
                role,
                check.name,
                interval,
                f"{check.direction} {check.threshold:g} {check.unit}",
                item.outcome,
                "gate" if check.gate else "reported",
            ))
    unit = next(iter(found.checks)).unit_of_resampling
    tail = f"{len(result.seeds)} seeds, scale {result.scale}, resampled: {unit}, {result.seconds:.1f} s"
    return "\n".join([head, grid(["arm", "check", "estimate [95 %]", "needed", "holds", ""], rows), tail])
