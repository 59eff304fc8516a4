"""Text from files and errors, printed in a terminal without being read as markup or control codes."""

from rich.console import Console
from rich.text import Text

from suffice.utils.text import brief, printable

CELL = 200
"""Maximum number of characters shown in a table cell."""


def error_message(error: BaseException) -> str:
    """Return the message of an error on one line, or its type if the message is empty."""
    return printable(" ".join(str(error).split())) or type(error).__name__


def cell(value: object, most: int = CELL) -> Text:
    """Return a value as a table cell, cut to `most` characters; None becomes an empty cell."""
    return Text("" if value is None else brief(value, most))


def print_line(console: Console, text: object = "", *, style: str = "", wrap: bool = True) -> None:
    """Print one line of text, without reading it as markup."""
    console.print(Text(printable(text), style=style), soft_wrap=not wrap)
