"""Commands on notebooks: report on methods, sweep knobs, copy the notebooks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from wbench.cli.options import Quiet, Scale, Set, Store, pairs_of, store_at

if TYPE_CHECKING:
    from wbench.reports import Report


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
    quiet: Quiet = False,
) -> None:
    """Run the report notebook on a method, or on several side by side, and write one interactive HTML file."""
    from wbench.errors import KnobError
    from wbench.reports import report as make_report

    compare = method[0] == "compare"
    names = method[1:] if compare else method
    if not names or (len(names) > 1 and not compare):
        raise KnobError("write: wbench report METHOD, or: wbench report compare METHOD METHOD ...")
    pairs = pairs_of(settings, "--set")
    if compare and pairs:
        raise KnobError("--set is for a report on one method")
    made = make_report(
        names,
        task=task,
        scale=scale,
        seeds=seeds,
        settings=pairs,
        out=out,
        store=store_at(store),
        compare=compare,
        progress=not quiet,
    )
    for name, outcome in made.outcomes.items():
        print(f"{name}: {outcome}")
    print(_size(made))


def sweep(
    method: Annotated[str, typer.Argument(help="Id of a method; or: baseline.")],
    knob: Annotated[list[str], typer.Argument(help="KNOB=VALUE,VALUE,...; a knob alone takes values over its slider.")],
    task: Annotated[str, typer.Option(help="What is trained on.")] = "digits",
    scale: Scale = "cpu",
    seeds: Annotated[int, typer.Option(min=1, help="Seeds at every point.")] = 8,
    settings: Set = [],  # noqa: B006
    out: Annotated[str, typer.Option(help="Folder for notebook and HTML.")] = "out",
    store: Store = "",
    quiet: Quiet = False,
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
        settings=pairs_of(settings, "--set"), out=out, store=store_at(store), progress=not quiet,
    )  # fmt: skip
    print(_size(made))


def app(
    task: Annotated[str, typer.Option(help="Chosen at first; options may follow the name.")] = "digits",
    method: Annotated[str, typer.Option(help="Id of the method chosen at first; empty: the baseline.")] = "galore",
    scale: Scale = "cpu",
    port: Annotated[int, typer.Option(help="On this machine alone.")] = 8866,
    browser: Annotated[bool, typer.Option(help="Open a browser.")] = True,
    store: Store = "",
) -> None:
    """Serve the workbench as a web page on this machine, for people without Jupyter (extra: lab)."""
    from wbench.workbench.app import serve

    parameters = {"task": task, "method": method, "scale": scale, "store": store_at(store).url}
    raise typer.Exit(serve(parameters, port=port, browser=browser))


def init(folder: Annotated[str, typer.Argument(help="Where to copy the notebooks.")] = "notebooks") -> None:
    """Copy the notebooks out of the package, so that they can be opened and changed."""
    from wbench.reports import copy_notebooks

    for path in copy_notebooks(folder):
        print(path)


def _size(made: Report) -> str:
    return f"{made.html} ({made.html.stat().st_size / 1e6:.1f} MB)"
