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
from suffice.cli import data, demo, export, reproduce, runtime, terminal
from suffice.utils.text import printable

_EXPECTED = (ValueError, RuntimeError, OSError, ImportError, ArithmeticError)
"""Types of errors whose messages state what was expected, what was found and what to do."""
_UNEXPECTED = (RecursionError, NotImplementedError)
"""Subclasses of these types whose messages do not."""
_DEBUG = "--debug"


class _InterruptedError(Exception):
    """Replacement for a KeyboardInterrupt, which Typer would handle itself."""


class _Commands(TyperGroup):
    """Group of commands that re-raises Ctrl-C and EOFError, which versions of Typer handle differently."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command of this invocation."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise _InterruptedError from error
        except EOFError as error:
            raise OSError(str(error) or "expected more to read, found the end") from error


app = typer.Typer(
    name="suffice",
    cls=_Commands,
    help="Know how sure a network is, for the price of one forward pass, and stop computing when that is enough.\n\n"
    "Example: suffice demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("demo")(demo.command)
app.command("reproduce")(reproduce.command)
app.command("export")(export.command)
app.command("run", context_settings=runtime.CONTEXT)(runtime.run)
app.command("serve", context_settings=runtime.CONTEXT)(runtime.serve)
app.add_typer(data.app, name="data")


def _reflow_help(commands: typer.Typer) -> None:
    """Join the lines of each help paragraph, so that it wraps at the width of the terminal."""
    for command in commands.registered_commands:
        paragraphs = inspect.cleandoc(getattr(command.callback, "__doc__", None) or "").split("\n\n")
        command.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


_reflow_help(app)
_reflow_help(data.app)


def _print_version(requested: bool) -> None:
    if requested:
        print(f"suffice {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[
        bool, typer.Option(_DEBUG, help="Print the traceback of a failure; also accepted after a command.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line and exit.

    A failure prints one line on standard error, with `--debug` preceded by its traceback, and exits with status 1.
    """
    arguments, debug = _split_debug_flag(sys.argv[1:])
    warnings.filterwarnings("ignore", "Image size .* exceeds limit")  # Pillow's; an error follows right after
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")  # print names that the terminal's encoding lacks, escaped
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
        # The reader of the pipe has exited. Redirect standard output, so that Python's flush at exit cannot fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if debug:
            for line in traceback.format_exc().splitlines():
                print(printable(line), file=sys.stderr)
        print(f"suffice: {_failure_message(error)}", file=sys.stderr)
        sys.exit(1)


def _split_debug_flag(arguments: list[str]) -> tuple[list[str], bool]:
    """Return the arguments without any `--debug` before a `--`, and whether there was one."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    others = [argument for argument in arguments[:end] if argument != _DEBUG]
    return others + arguments[end:], len(others) < end


def _failure_message(error: Exception) -> str:
    """Return the message of an error on one line, with its type if the error is unexpected."""
    message = terminal.error_message(error)
    if isinstance(error, _EXPECTED) and not isinstance(error, _UNEXPECTED):
        return message
    kind = type(error).__name__
    return f"{kind if message == kind else f'{kind}: {message}'}; an unexpected failure, {_DEBUG} shows where"
