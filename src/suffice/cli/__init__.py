"""The command line: `suffice COMMAND`, one file per command.

Exit status 0, 1 (failed) or 2 (bad usage).
"""

import inspect
import sys
from typing import Annotated

import typer

import suffice
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


def _joined(commands: typer.Typer) -> None:
    """Let the paragraphs of each command's help break where they are shown, and not where they were written."""
    for command in commands.registered_commands:
        paragraphs = inspect.cleandoc(getattr(command.callback, "__doc__", None) or "").split("\n\n")
        command.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


_joined(app)
_joined(data.app)


def _version(asked: bool) -> None:
    if asked:
        print(f"suffice {suffice.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; a failure is one line on standard error and status 1."""
    try:
        app(prog_name="suffice")
    except (ValueError, RuntimeError, OSError, ImportError, ArithmeticError) as error:
        print(f"suffice: {error}", file=sys.stderr)
        sys.exit(1)
