"""The command line: `wbench ...`. Nothing heavy is imported until a command needs it."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

app = typer.Typer(
    name="wbench", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
    help="The workbench for weight-space methods: train, probe, check claims, report.",
)  # fmt: skip
runs_app = typer.Typer(
    no_args_is_help=True, help="List, show, compare and delete recorded runs.", rich_markup_mode=None
)
app.add_typer(runs_app, name="runs")

Store = Annotated[
    str, typer.Option("--store", help="Folder of the run store; default $WBENCH_HOME/runs or ./.wbench/runs.")
]
Scale = Annotated[str, typer.Option(help="smoke (seconds), cpu (under a minute a run) or gpu.")]
Set = Annotated[list[str], typer.Option("--set", help="A knob: name=value; may be repeated.")]
TaskSet = Annotated[list[str], typer.Option("--task-set", help="A task's option: name=value; may be repeated.")]


def _pairs(values: list[str], option: str) -> dict[str, str]:
    from wbench.errors import KnobError

    found = {}
    for value in values:
        name, sign, text = value.partition("=")
        if not sign or not name:
            raise KnobError(f"{option} {value!r} is not allowed; allowed: name=value")
        found[name.strip()] = text
    return found


def _store(folder: str) -> Any:
    from wbench.runs import RunStore

    return RunStore(folder or None)


@app.command()
def methods(
    topic: Annotated[str, typer.Option(help="Only methods with this topic, or part of it.")] = "",
    stage: Annotated[str, typer.Option(help="Only methods of this stage.")] = "",
    markdown: Annotated[bool, typer.Option("--markdown", help="As the README's table.")] = False,
) -> None:
    """List the methods: id, stage, title."""
    from wbench.listing import markdown_table, plain_table

    print(markdown_table() if markdown else plain_table(topic, stage))


@app.command()
def train(
    task: Annotated[str, typer.Argument(help="Name of a task.")],
    method: Annotated[list[str], typer.Argument(help="Ids of methods; none: the baseline.")] = [],  # noqa: B006 - typer reads it once
    scale: Scale = "cpu",
    seed: Annotated[int, typer.Option(min=0)] = 0,
    settings: Set = [],  # noqa: B006
    task_settings: TaskSet = [],  # noqa: B006
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    store: Store = "",
) -> None:
    """Train a task's model with methods on it, and record the run. With several methods, --set takes method.knob=value."""
    from wbench.errors import KnobError
    from wbench.method import get
    from wbench.tasks import find_task
    from wbench.training import train as run_training

    pairs = _pairs(settings, "--set")
    if pairs and not method:
        raise KnobError("--set needs a method; a task's options are set with --task-set")
    classes = [get(name) for name in method]
    for key in pairs:
        owner = key.rpartition(".")[0]
        if not owner and len(method) > 1:
            raise KnobError("with several methods write --set method.knob=value")
        if owner and owner not in method:
            raise KnobError(f"--set {key}: '{owner}' is not among the methods of this run: {', '.join(method)}")
    chosen = [
        cls.from_strings({
            key.rpartition(".")[2]: value for key, value in pairs.items() if key.rpartition(".")[0] in {"", cls.id}
        })
        for cls in classes
    ]
    found = find_task(task, _pairs(task_settings, "--task-set"))
    run = run_training(found, chosen, seed=seed, scale=scale, device=device, store=_store(store), progress=True)
    _show(run)
    if run.status == "diverged":
        print(f"diverged: {run.reason}", file=sys.stderr)
        raise typer.Exit(1)


@app.command()
def probe(
    path: Annotated[str, typer.Argument(help="Checkpoint: .safetensors, an index, a folder, .pt, .pth or .bin.")],
    name: Annotated[str, typer.Option("--probe", help="spectrum, histogram or summary.")] = "spectrum",
    layers: Annotated[str, typer.Option(help="Glob over layer names.")] = "*",
    nonfinite: Annotated[str, typer.Option(help="Tensors with NaN or inf: raise or skip.")] = "raise",
    out: Annotated[str, typer.Option(help="Write the whole table to this .parquet or .csv file.")] = "",
) -> None:
    """Probe a checkpoint on disk, tensor by tensor; prints one row a layer."""
    from wbench.listing import probe_table

    print(probe_table(path, name, layers, nonfinite, out))


@app.command()
def claim(
    method: Annotated[str, typer.Argument(help="Id of a method.")],
    scale: Scale = "cpu",
    seeds: Annotated[int, typer.Option(help="Number of seeds; 0: the claim's own.")] = 0,
    workers: Annotated[int, typer.Option(help="Processes; 0: one a core.")] = 0,
    store: Store = "",
    out: Annotated[str, typer.Option(help="Write the verdict as JSON to this file.")] = "",
) -> None:
    """Check a method's claim with its negative control, and print the verdict with every interval."""
    from wbench import claims
    from wbench.listing import claim_text, written

    result = claims.get(method).run(
        scale, seeds=seeds or None, store=_store(store), workers=workers or None, progress=True
    )
    print(claim_text(result))
    if out:
        written(out, lambda path: path.write_text(result.to_json()))


@app.command()
def study(
    file: Annotated[str, typer.Argument(help="TOML file: task, seeds, [recipe], [grid], [arms.NAME].")],
    cluster: Annotated[str, typer.Option(help="Address of a Dask scheduler, e.g. tcp://host:8786.")] = "",
    workers: Annotated[int, typer.Option(help="Processes; 0: one a core or GPU; 1: this one.")] = 0,
    vectorize: Annotated[str, typer.Option(help="Stack runs that differ in numbers: auto, always or never.")] = "auto",
    time_limit: Annotated[float, typer.Option(help="Seconds a run may take; 0: no limit.")] = 0.0,
    memory: Annotated[float, typer.Option(help="GiB a worker may take; 0: its share of the machine's.")] = 0.0,
    show: Annotated[bool, typer.Option("--show", help="Train nothing; show what is there.")] = False,
    store: Annotated[str, typer.Option("--store", help="Folder or URL (s3://...) of the run store.")] = "",
    out: Annotated[str, typer.Option(help="Write the table of runs to this .parquet or .csv file.")] = "",
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Train the runs of a study that are not there yet: arms x grid x seeds. Ctrl-C keeps what is finished; start again to go on."""
    from dataclasses import replace

    from wbench.listing import study_text, written_table
    from wbench.study.file import read_study

    planned = read_study(file)
    if store:
        planned = replace(planned, store=_store(store))
    failed = 0
    if not show:
        executor: Any = None
        if cluster:
            from wbench.study.cluster import connect

            executor = lambda: connect(cluster)  # noqa: E731 - made when the first run needs it
        outcome = planned.run(
            executor, workers=workers or None, vectorize=vectorize,  # type: ignore[arg-type]
            time_limit=time_limit or None, memory=memory or None,
            progress=not quiet,
        )  # fmt: skip
        failed = len(outcome.failures)
    frame = planned.frame()
    print(study_text(frame))
    if out:
        written_table(out, frame)
    if failed:
        raise typer.Exit(1)


@app.command()
def report(
    method: Annotated[list[str], typer.Argument(help="Id of a method; or: compare METHOD METHOD ...")],
    task: Annotated[
        str, typer.Option(help="What is trained on beside the claims; default: mnist, or an estimator's own task.")
    ] = "",
    scale: Scale = "cpu",
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of the training beside the claims.")] = 1,
    settings: Set = [],  # noqa: B006
    out: Annotated[str, typer.Option(help="Folder for notebook, HTML and verdicts.")] = "out",
    store: Store = "",
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bars.")] = False,
) -> None:
    """Run the report notebook on a method, or on several side by side, and write one interactive HTML file."""
    from wbench.errors import KnobError
    from wbench.reports import report as make_report

    compare = method[0] == "compare"
    names = method[1:] if compare else method
    if not names or (len(names) > 1 and not compare):
        raise KnobError("write: wbench report METHOD, or: wbench report compare METHOD METHOD ...")
    pairs = _pairs(settings, "--set")
    if compare and pairs:
        raise KnobError("--set is for a report on one method")
    made = make_report(
        names,
        task=task,
        scale=scale,
        seeds=seeds,
        settings=pairs,
        out=out,
        store=_store(store),
        compare=compare,
        progress=not quiet,
    )
    for name, outcome in made.outcomes.items():
        print(f"{name}: {outcome}")
    print(f"{made.html} ({made.html.stat().st_size / 1e6:.1f} MB)")


@app.command()
def sweep(
    method: Annotated[str, typer.Argument(help="Id of a method; or: baseline.")],
    knob: Annotated[list[str], typer.Argument(help="KNOB=VALUE,VALUE,...; a knob alone takes values over its slider.")],
    task: Annotated[str, typer.Option(help="What is trained on.")] = "digits",
    scale: Scale = "cpu",
    seeds: Annotated[int, typer.Option(min=1, help="Seeds at every point.")] = 8,
    settings: Set = [],  # noqa: B006
    out: Annotated[str, typer.Option(help="Folder for notebook and HTML.")] = "out",
    store: Store = "",
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bars.")] = False,
) -> None:
    """Sweep knobs of a method, or fields of the recipe such as lr, and write one interactive HTML file of the responses."""
    from wbench.errors import KnobError
    from wbench.reports import sweep as make_sweep

    grid: dict[str, list[str]] = {}
    for given in knob:
        name, _, values = given.partition("=")
        if not name or name in grid:
            raise KnobError(f"{given!r} is not allowed; allowed: each knob once, as KNOB=VALUE,VALUE,... or KNOB")
        grid[name] = [value.strip() for value in values.split(",") if value.strip()]
    made = make_sweep(
        "" if method == "baseline" else method, grid, task=task, scale=scale, seeds=seeds,
        settings=_pairs(settings, "--set"), out=out, store=_store(store), progress=not quiet,
    )  # fmt: skip
    print(f"{made.html} ({made.html.stat().st_size / 1e6:.1f} MB)")


@app.command("init")
def init(folder: Annotated[str, typer.Argument(help="Where to copy the notebooks.")] = "notebooks") -> None:
    """Copy the notebooks out of the package, so that they can be opened and changed."""
    from wbench.reports import copy_notebooks

    for path in copy_notebooks(folder):
        print(path)


@runs_app.command("list")
def runs_list(store: Store = "") -> None:
    """List the recorded runs, newest first."""
    from wbench.listing import runs_table

    print(runs_table(_store(store)))


@runs_app.command("show")
def runs_show(run: Annotated[str, typer.Argument(help="Id, or its start.")], store: Store = "") -> None:
    """Show one run."""
    _show(_store(store).get(run))


@runs_app.command("compare")
def runs_compare(run: Annotated[list[str], typer.Argument(help="Ids, or their starts.")], store: Store = "") -> None:
    """Show where runs differ: settings and final metrics."""
    print(_store(store).compare(run).to_string())


@runs_app.command("delete")
def runs_delete(run: Annotated[list[str], typer.Argument(help="Ids, or their starts.")], store: Store = "") -> None:
    """Delete runs."""
    for name in run:
        print(f"deleted {_store(store).delete(name)}")


def _show(run: Any) -> None:
    from wbench.listing import run_text

    print(run_text(run))


def main() -> None:
    """Run the command line and exit: 0, 1 with one message for what a user can cause, 2 for wrong usage, 130 after Ctrl-C."""
    from wbench.errors import WBenchError

    try:
        status = app(standalone_mode=False)  # what typer.Exit carries; 130 after Ctrl-C
    except WBenchError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 1
    except (KeyboardInterrupt, typer.Abort):
        status = 130
    except Exception as error:
        if not type(error).__module__.startswith(("click", "typer")):
            raise
        show = getattr(error, "show", None)
        if callable(show):
            show()
        status = getattr(error, "exit_code", 2)
    if status == 130:
        print("stopped; what was finished is kept", file=sys.stderr)
    sys.exit(status or 0)


if __name__ == "__main__":
    main()
