"""The command line of zoos: `wbench zoo ...`."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

app = typer.Typer(
    no_args_is_help=True, help="Make and list folders of models fine-tuned from one base.", rich_markup_mode=None
)


def _options(text: str, option: str) -> dict[str, str]:
    from wbench.errors import KnobError

    found = {}
    for part in shlex.split(text):
        name, sign, value = part.partition("=")
        if not sign or not name:
            raise KnobError(f"{option} '{text}' is not allowed; allowed: name=value, several with a space between")
        found[name] = value
    return found


def _member(text: str) -> tuple[str, dict[str, str]]:
    # `role: name=value name=value`; without a role the values are the role
    head, sign, rest = text.partition(":")
    named = bool(sign) and "=" not in head
    options = _options(rest if named else text, "--members")
    return (head.strip() if named else "-".join(options.values())), options


def _members(texts: list[str]) -> dict[str, dict[str, str]]:
    from wbench.errors import KnobError

    found: dict[str, dict[str, str]] = {}
    for role, options in map(_member, texts):
        if role in found:
            raise KnobError(f"--members: two members are named '{role}'; write 'role: name=value'")
        found[role] = options
    return found


@app.command()
def train(
    task: Annotated[str, typer.Argument(help="Name of a task.")],
    members: Annotated[
        list[str],
        typer.Option("--members", help="A member: 'role: name=value name=value', options of the task; repeat it."),
    ],
    out: Annotated[str, typer.Option("--out", help="Folder to write; new or empty.")],
    base: Annotated[str, typer.Option(help="Options of the base's task; without: members start untrained.")] = "",
    task_settings: Annotated[
        list[str], typer.Option("--task-set", help="An option of all tasks: name=value; may be repeated.")
    ] = [],  # noqa: B006 - typer reads it once
    method: Annotated[
        list[str], typer.Option("--method", help="Id of a method for the members; may be repeated.")
    ] = [],  # noqa: B006
    trainable: Annotated[str, typer.Option(help="Globs of modules that may change, e.g. '*,!head'.")] = "",
    seed: Annotated[int, typer.Option(min=0)] = 0,
    scale: Annotated[str, typer.Option(help="smoke (seconds), cpu (under a minute a run) or gpu.")] = "cpu",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    store: Annotated[str, typer.Option("--store", help="Folder of the run store.")] = "",
) -> None:
    """Train a base, fine-tune it to each member's task, and write their weights and what is known of them."""
    from wbench.runs import RunStore
    from wbench.tasks import find_task
    from wbench.zoo import Zoo

    shared = _options(" ".join(map(shlex.quote, task_settings)), "--task-set")
    tasks = {role: find_task(task, {**shared, **options}) for role, options in _members(members).items()}
    start = find_task(task, {**shared, **_options(base, "--base")}) if base else None
    zoo = Zoo.train(
        tasks, out, base=start, methods=method or None, seed=seed, scale=scale, trainable=trainable or None, device=device,
        store=RunStore(store or None), progress=True,
    )  # fmt: skip
    print(_table(zoo.frame()))


@app.command("list")
def show(
    folder: Annotated[str, typer.Argument(help="Folder that holds zoo.json.")],
) -> None:
    """List the members of a zoo: task, seed, size and metrics on their own test data."""
    from wbench.zoo import Zoo

    print(_table(Zoo.open(folder).frame()))


def _table(frame: object) -> str:
    return frame.to_string(index=False, float_format="{:.4g}".format)  # type: ignore[attr-defined]
