import io

import pytest
from rich.console import Console
from rich.table import Table

from suffice.cli import terminal
from suffice.utils.text import printable
from tests.utils.test_text import HOSTILE


@pytest.mark.parametrize("text", ["[red]x", "[/]", "[/red]", "[link=http://x]y", ":smile:", "a\\[b]", *HOSTILE])
def test_cells_and_lines_hold_the_text_itself_whatever_it_would_mean_as_markup(text):
    out = io.StringIO()
    console = Console(file=out, width=200, force_terminal=True)
    table = Table(title=terminal.cell(text))
    table.add_column(terminal.cell(text))
    table.add_row(terminal.cell(text))
    console.print(table)
    terminal.print_line(console, text)
    shown = out.getvalue()
    assert shown.count(printable(text)) == 4, shown
    assert "\x1b[31m" not in shown
    assert "\x07" not in shown


def test_a_long_cell_is_cut():
    assert str(terminal.cell("x" * 5_000_000)) == "x" * terminal.CELL + "…"
    assert str(terminal.cell(None)) == ""


def test_a_message_is_one_line_and_never_empty():
    assert (
        terminal.error_message(ValueError("expected\n  this,\r\ngot \x1b[31mthat"))
        == r"expected this, got \x1b[31mthat"
    )
    assert terminal.error_message(MemoryError()) == "MemoryError"
