"""Commands that train many runs: check a claim, run a study."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from wbench.cli.options import Scale, Store, store_at


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
        scale, seeds=seeds or None, store=store_at(store), workers=workers or None, progress=True
    )
    print(claim_text(result))
    if out:
        written(out, lambda path: path.write_text(result.to_json()))


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
        planned = replace(planned, store=store_at(store))
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
