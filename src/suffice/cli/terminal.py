"""Names, cells, paths and messages that hold what others wrote, shown in a terminal: nothing is read as markup."""

from rich.console import Console
from rich.text import Text

from suffice.utils.text import brief, printable

CELL = 200
"""Characters of a cell that are shown."""


def message(error: BaseException) -> str:
    """Return what an error says, on one line; its kind where it says nothing."""
    return printable(" ".join(str(error).split())) or type(error).__name__


def cell(value: object, most: int = CELL) -> Text:
    """Return a value as a cell of a table, cut to `most` characters; empty for None."""
    return Text("" if value is None else brief(value, most))


def say(console: Console, text: object = "", *, style: str = "", wrap: bool = True) -> None:
    """Print one line of text, which is not read as markup."""
    console.print(Text(printable(text), style=style), soft_wrap=not wrap)
