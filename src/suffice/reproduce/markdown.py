"""Markdown tables, and pages that contain each of them between two comments.

    <!-- table movielens estimates -->
    …
    <!-- end -->

The text between the comments is generated from the results and not edited by hand.
"""

import re
import statistics
from collections.abc import Callable, Sequence

from suffice.reproduce.ledger import Results

MarkdownTable = Callable[[Results], str]
"""Function from the results of an experiment to a table in Markdown."""

_BLOCK = re.compile(r"(<!-- table (\S+) (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a table whose first column holds text and whose other columns hold numbers."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *rows)) + "\n"


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Format values as mean ± sample standard deviation, or as the mean if there is only one."""
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def fill_tables(page: str, make: Callable[[str, str], str]) -> str:
    """Return a page with each table replaced by `make(experiment, table)`."""
    return _BLOCK.sub(lambda block: f"{block[1]}\n{make(block[2], block[3])}\n{block[4]}", page)


def table_names(page: str) -> list[tuple[str, str]]:
    """Return the experiment and the table of each block of a page."""
    return [(block[2], block[3]) for block in _BLOCK.finditer(page)]
