"""The command line: `wbench ...`. Nothing heavy is imported until a command needs it."""

from __future__ import annotations

import sys

import typer

from wbench.cli import checking, reporting, runs, training, zoo

app = typer.Typer(
    name="wbench", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
    help="The workbench for weight-space methods: train, probe, check claims, report.",
)  # fmt: skip
for _command in (
    training.methods, training.train, training.probe, checking.claim, checking.study,
    reporting.report, reporting.sweep, reporting.app, reporting.init,
):  # fmt: skip
    app.command()(_command)
app.add_typer(runs.app, name="runs")
app.add_typer(zoo.app, name="zoo")


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
