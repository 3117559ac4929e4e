"""Commands on one thing: list methods, train a run, probe a checkpoint."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from wbench.cli.options import Scale, Set, Store, TaskSet, pairs_of, store_at


def methods(
    topic: Annotated[str, typer.Option(help="Only methods with this topic, or part of it.")] = "",
    stage: Annotated[str, typer.Option(help="Only methods of this stage.")] = "",
    markdown: Annotated[bool, typer.Option("--markdown", help="As the README's table.")] = False,
) -> None:
    """List the methods: id, stage, title."""
    from wbench.listing import markdown_table, plain_table

    print(markdown_table() if markdown else plain_table(topic, stage))


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
    from wbench.listing import run_text
    from wbench.method import get
    from wbench.tasks import find_task
    from wbench.training import train as run_training

    pairs = pairs_of(settings, "--set")
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
    found = find_task(task, pairs_of(task_settings, "--task-set"))
    run = run_training(found, chosen, seed=seed, scale=scale, device=device, store=store_at(store), progress=True)
    print(run_text(run))
    if run.status == "diverged":
        print(f"diverged: {run.reason}", file=sys.stderr)
        raise typer.Exit(1)


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
