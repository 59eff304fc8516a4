"""The command line: `suffice COMMAND`, one file per command.

Exit status 0, 1 (failed) or 2 (bad usage).
"""

import sys

import typer

from suffice.cli import data, demo, reproduce

app = typer.Typer(
    name="suffice",
    help="Know how sure a network is, for the price of one forward pass, and stop computing when that is enough.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("demo")(demo.command)
app.command("reproduce")(reproduce.command)
app.add_typer(data.app, name="data")


def main() -> None:
    """Run the command line; a failure is one line on standard error and status 1."""
    try:
        app()
    except (ValueError, RuntimeError, OSError, ImportError, ArithmeticError) as error:
        print(f"suffice: {error}", file=sys.stderr)
        sys.exit(1)
