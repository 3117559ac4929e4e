"""Making a report: papermill runs a notebook, one HTML file and the verdicts come out."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wbench.errors import ReportError
from wbench.method import Method, get
from wbench.reports.html import to_html
from wbench.reports.progress import relayed
from wbench.runs import RunStore
from wbench.tasks import find_task, task_text


@dataclass(frozen=True)
class Report:
    """The files of a report.

    Attributes:
        notebook: The executed notebook.
        html: The one HTML file.
        verdicts: Claim id to the file with its verdict, seeds' values and intervals.
        outcomes: Claim id to `reproduced`, `not reproduced`, `inconclusive` or `invalid`.
    """

    notebook: Path
    html: Path
    verdicts: dict[str, Path]
    outcomes: dict[str, str]


def notebooks_dir() -> Path:
    """Return the folder of the notebooks: that of the installed package, else that of the checkout."""
    installed = Path(__file__).parents[1] / "_share" / "notebooks"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "notebooks"


def report(
    methods: Sequence[str],
    *,
    task: str = "",
    scale: str = "cpu",
    seeds: int = 1,
    settings: Mapping[str, str] | None = None,
    out: str | Path = "out",
    store: RunStore | None = None,
    compare: bool | None = None,
    progress: bool = True,
) -> Report:
    """Execute a notebook on one method, or on several side by side, and write one HTML file and the verdicts.

    Args:
        methods: Ids. One: `method.ipynb`; several: `compare.ipynb`.
        task: What the methods are trained on beside their claims; default: see `usual_task`.
        scale: `smoke`, `cpu` or `gpu`.
        seeds: Seeds of the training beside the claims; the claims keep their own number.
        settings: Knob to text value, for a report on one method.
        out: Folder for the files; made when needed.
        store: Where runs are kept and found.
        compare: Use `compare.ipynb` whatever the number of methods.
        progress: Show progress per cell and per training step on standard error.

    Returns:
        The files.

    Raises:
        ReportError: If a cell fails (the partial notebook is kept and named) or the folder cannot be written.
        WBenchError: If a method, task, knob or scale is not allowed; nothing is executed then.
    """
    side_by_side = compare if compare is not None else len(methods) > 1
    checked = [get(name) for name in methods]
    if settings:
        checked[0].from_strings(settings)
    task = task or usual_task(checked)
    find_task(task).recipe(scale)
    store = store or RunStore()
    store.check_writable()
    folder = Path(out)
    name = "compare" if side_by_side else methods[0]
    parameters: dict[str, Any] = {
        "task": task,
        "scale": scale,
        "seeds": seeds,
        "store": store.url,
        "verdicts": str(folder.resolve()),
    }
    parameters |= (
        {"methods": json.dumps(list(methods))}
        if side_by_side
        else {"method": methods[0], "settings": json.dumps(dict(settings or {}))}
    )
    source = notebooks_dir() / ("compare.ipynb" if side_by_side else "method.ipynb")
    with _writing(folder):
        for stale in methods:
            (folder / f"verdict-{stale}.json").unlink(missing_ok=True)
        executed = execute(source, folder / f"{name}.ipynb", parameters, progress=progress)
        page = to_html(executed, folder / f"{name}.html", title=f"wbench: {', '.join(methods)}")
        verdicts = {
            name: folder / f"verdict-{name}.json" for name in methods if (folder / f"verdict-{name}.json").exists()
        }
        outcomes = {name: json.loads(path.read_text())["verdict"]["outcome"] for name, path in verdicts.items()}
    return Report(executed, page, verdicts, outcomes)


def usual_task(methods: Sequence[type[Method]]) -> str:
    """Return what methods are trained on where nobody says.

    Args:
        methods: Their classes.

    Returns:
        The claim's task of the first that needs data or a model of its kind (an architecture, a loss on further data, a trained
        model of some form, models to merge, an estimator), else `mnist`.
    """
    from wbench import claims

    particular = [
        cls.id for cls in methods if cls.stage in {"layer", "objective", "transform", "population", "estimator"}
    ]
    known = claims.all() if particular else {}
    return next((task_text(known[name].task) for name in particular if name in known), "mnist")


def sweep(
    method: str,
    grid: Mapping[str, Sequence[Any]],
    *,
    task: str = "digits",
    scale: str = "cpu",
    seeds: int = 8,
    settings: Mapping[str, str] | None = None,
    out: str | Path = "out",
    store: RunStore | None = None,
    progress: bool = True,
) -> Report:
    """Execute `study.ipynb`: how metrics, spectrum and effective learning rate answer to knobs; and write one HTML file.

    Args:
        method: Id of the method; empty: the baseline alone.
        grid: Knob of the method, or field of the recipe, to values, numbers or text; none: about five over its slider.
        task: What is trained on.
        scale: `smoke`, `cpu` or `gpu`.
        seeds: Seeds at every point of the grid.
        settings: Knob or recipe field to text value: what stays fixed.
        out: Folder for the files; made when needed.
        store: Where runs are kept and found.
        progress: Show progress per cell and per training step on standard error.

    Returns:
        The files; without verdicts.

    Raises:
        ReportError: If a cell fails (the partial notebook is kept and named) or the folder cannot be written.
        WBenchError: If a method, task, knob, value or scale is not allowed; nothing is executed then.
    """
    from wbench.reports.study_plan import sweep as plan

    store, folder = store or RunStore(), Path(out)
    given: dict[str, Any] = {
        "task": task, "method": method, "settings": json.dumps(dict(settings or {})),
        "grid": json.dumps({key: list(values) for key, values in grid.items()}), "seeds": seeds, "scale": scale,
    }  # fmt: skip
    plan(**given, store=store)  # refuses what is not allowed, before a kernel starts
    store.check_writable()
    with _writing(folder):
        name = f"study-{method or 'baseline'}"
        executed = execute(
            notebooks_dir() / "study.ipynb", folder / f"{name}.ipynb", {**given, "store": store.url}, progress=progress
        )
        page = to_html(executed, folder / f"{name}.html", title=f"wbench: {method or 'baseline'} by {', '.join(grid)}")
    return Report(executed, page, {}, {})


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise ReportError(
            f"the report cannot be written to {folder}: {error.strerror or error}; choose another folder with --out"
        ) from error


def execute(source: Path, target: Path, parameters: Mapping[str, Any], *, progress: bool = True) -> Path:
    """Execute a notebook with parameters, which are data, never code.

    Args:
        source: The notebook, with a cell tagged `parameters`.
        target: Where the executed one goes; kept as far as it came when a cell fails.
        parameters: Name to a plain value.
        progress: Show progress on standard error.

    Returns:
        `target`.

    Raises:
        ReportError: If a cell fails; names the error and the partial notebook.
    """
    import papermill
    from papermill.exceptions import PapermillExecutionError

    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    try:
        with relayed(progress):
            papermill.execute_notebook(  # a failing notebook is written as far as it came
                str(source), str(target), parameters=dict(parameters), kernel_name="python3", progress_bar=progress,
                store_widget_state=False, cwd=str(Path.cwd()), autosave_cell_every=0, request_save_on_cell_execute=False,
                extra_arguments=["--IPKernelApp.log_level=40"], shutdown_kernel="immediate",
            )  # fmt: skip
    except PapermillExecutionError as error:
        raise ReportError(
            f"{source.name} failed in cell {error.exec_count}: {error.ename}: {error.evalue}; the partial notebook is {target}"
        ) from error
    return target


def copy_notebooks(folder: str | Path) -> list[Path]:
    """Copy the notebooks out, so that they can be opened and changed.

    Args:
        folder: Where to; made when needed. Files that are there are not overwritten.

    Returns:
        The copied files.

    Raises:
        ReportError: If the folder cannot be written.
    """
    target = Path(folder)
    copied = []
    try:
        target.mkdir(parents=True, exist_ok=True)
        for source in sorted(notebooks_dir().glob("*.ipynb")):
            if not (target / source.name).exists():
                copied.append(Path(shutil.copy(source, target / source.name)))
    except OSError as error:
        raise ReportError(f"the notebooks cannot be copied to {target}: {error.strerror or error}") from error
    return copied
