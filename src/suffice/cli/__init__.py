"""The command line: `suffice COMMAND`, one file per command.

Exit status 0, 1 (failed), 2 (bad usage) or 130 (interrupted).
"""

import inspect
import os
import sys
import traceback
import warnings
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from suffice._version import __version__
from suffice.cli import data, demo, reproduce, terminal
from suffice.utils.text import printable

_EXPECTED = (ValueError, RuntimeError, OSError, ImportError, ArithmeticError)
"""Kinds of errors whose messages say what was expected, what was got and what to do."""
_UNEXPECTED = (RecursionError, NotImplementedError)
"""Those of them that do not."""
_DEBUG = "--debug"


class _InterruptedError(Exception):
    """Ctrl-C."""


class _Commands(TyperGroup):
    """Passes on what Typer would end in a way of its own, another in each version: Ctrl-C, and the end of a file."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was given."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise _InterruptedError from error
        except EOFError as error:
            raise OSError(str(error) or "expected more to read, found the end") from error


app = typer.Typer(
    name="suffice",
    cls=_Commands,
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
        print(f"suffice {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option(_DEBUG, help="Show the traceback of a failure; may stand behind a command too.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; a failure is one line on standard error and status 1, with `--debug` its traceback too."""
    arguments, debug = _without_debug(sys.argv[1:])
    warnings.filterwarnings("ignore", "Image size .* exceeds limit")  # Pillow's, of what is refused right after
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")  # a name that the terminal has no characters for is no failure
    try:
        try:
            app(args=arguments, prog_name="suffice")
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except (_InterruptedError, KeyboardInterrupt):
        print("suffice: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # whoever read has gone, and wants no more
        sys.exit(1)
    except Exception as error:
        if debug:
            for line in traceback.format_exc().splitlines():
                print(printable(line), file=sys.stderr)
        print(f"suffice: {_failure(error)}", file=sys.stderr)
        sys.exit(1)


def _without_debug(arguments: list[str]) -> tuple[list[str], bool]:
    """The arguments without `--debug`, wherever it stands before a `--`; and whether it was there."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    kept = [argument for argument in arguments[:end] if argument != _DEBUG]
    return kept + arguments[end:], len(kept) < end


def _failure(error: Exception) -> str:
    """What is to be said of an error, on one line."""
    if isinstance(error, _EXPECTED) and not isinstance(error, _UNEXPECTED):
        return terminal.message(error)
    said = terminal.message(error)
    kind = type(error).__name__
    return f"{kind if said == kind else f'{kind}: {said}'}; an unexpected failure, {_DEBUG} shows where"
