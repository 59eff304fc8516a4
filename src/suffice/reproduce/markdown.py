"""Tables in Markdown, and pages that hold each of them between two comments.

    <!-- table movielens estimates -->
    …
    <!-- end -->

What stands between is made from the results and never written by hand.
"""

import re
import statistics
from collections.abc import Callable, Sequence

from suffice.reproduce.ledger import Results

MarkdownTable = Callable[[Results], str]
"""Makes one from results."""

_BLOCK = re.compile(r"(<!-- table (\S+) (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; the first column is text, the others are numbers."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *rows)) + "\n"


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Mean ± sample standard deviation, or the one value."""
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def filled(page: str, make: Callable[[str, str], str]) -> str:
    """The page with every table made anew by `make(experiment, table)`."""
    return _BLOCK.sub(lambda block: f"{block[1]}\n{make(block[2], block[3])}\n{block[4]}", page)


def named(page: str) -> list[tuple[str, str]]:
    """Experiment and table of each block of a page."""
    return [(block[2], block[3]) for block in _BLOCK.finditer(page)]
