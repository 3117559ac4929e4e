"""`wbench runs ...`: list, show, compare and delete recorded runs."""

from __future__ import annotations

from typing import Annotated

import typer

from wbench.cli.options import Store, store_at

app = typer.Typer(no_args_is_help=True, help="List, show, compare and delete recorded runs.", rich_markup_mode=None)


@app.command("list")
def runs_list(store: Store = "") -> None:
    """List the recorded runs, newest first."""
    from wbench.listing import runs_table

    print(runs_table(store_at(store)))


@app.command("show")
def runs_show(run: Annotated[str, typer.Argument(help="Id, or its start.")], store: Store = "") -> None:
    """Show one run."""
    from wbench.listing import run_text

    print(run_text(store_at(store).get(run)))


@app.command("compare")
def runs_compare(run: Annotated[list[str], typer.Argument(help="Ids, or their starts.")], store: Store = "") -> None:
    """Show where runs differ: settings and final metrics."""
    print(store_at(store).compare(run).to_string())


@app.command("delete")
def runs_delete(run: Annotated[list[str], typer.Argument(help="Ids, or their starts.")], store: Store = "") -> None:
    """Delete runs."""
    for name in run:
        print(f"deleted {store_at(store).delete(name)}")
