"""Options that several commands have, and what is made of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from wbench.runs import RunStore


Store = Annotated[
    str, typer.Option("--store", help="Folder of the run store; default $WBENCH_HOME/runs or ./.wbench/runs.")
]
Scale = Annotated[str, typer.Option(help="smoke (seconds), cpu (under a minute a run) or gpu.")]
Set = Annotated[list[str], typer.Option("--set", help="A knob: name=value; may be repeated.")]
TaskSet = Annotated[list[str], typer.Option("--task-set", help="A task's option: name=value; may be repeated.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bars.")]


def pairs_of(values: list[str], option: str) -> dict[str, str]:
    """Return name to text.

    Args:
        values: Each as `name=value`.
        option: For the message.

    Raises:
        KnobError: If one has another form.
    """
    from wbench.errors import KnobError

    found = {}
    for value in values:
        name, sign, text = value.partition("=")
        if not sign or not name:
            raise KnobError(f"{option} {value!r} is not allowed; allowed: name=value")
        found[name.strip()] = text
    return found


def store_at(folder: str) -> RunStore:
    """Return a run store.

    Args:
        folder: Folder or URL; empty: the usual one.
    """
    from wbench.runs import RunStore

    return RunStore(folder or None)
