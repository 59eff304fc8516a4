r"""Text made fit to be shown in a terminal: names, cells, paths and messages that hold what others wrote.

What would move the cursor, change colors, reverse the direction of reading or be no character at all is shown by
its escape (`\x1b`, `\u202e`, `\udcff`), and nothing is read as markup.
"""

from rich.console import Console
from rich.text import Text

CELL = 200
"""Characters of a cell that are shown."""


def printable(value: object) -> str:
    """Return the text of a value on one line, every character that is not printable as its escape."""
    text = str(value)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def message(error: BaseException) -> str:
    """Return what an error says, on one line; its kind where it says nothing."""
    return printable(" ".join(str(error).split())) or type(error).__name__


def cell(value: object, most: int = CELL) -> Text:
    """Return a value as a cell of a table, cut to `most` characters; empty for None."""
    text = "" if value is None else printable(value)
    return Text(text if len(text) <= most else f"{text[:most]}…")


def say(console: Console, text: object = "", *, style: str = "", wrap: bool = True) -> None:
    """Print one line of text, which is not read as markup."""
    console.print(Text(printable(text), style=style), soft_wrap=not wrap)
