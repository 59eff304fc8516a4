"""Update every table in the README and in docs/, and every figure of results, from the results in this folder.

    python experiments/tables.py

replaces the text between `<!-- table EXPERIMENT TABLE -->` and `<!-- end -->`, and the files of `FIGURES`. A test fails
if a page or a figure is out of date.
"""

from functools import partial
from pathlib import Path

from suffice.reproduce import catalog, ledger, markdown
from suffice.reproduce.early_exit import overconfidence_figure
from suffice.storage import files

RESULTS = Path(__file__).parent
DOCS = RESULTS.parent / "docs"
FIGURES = {DOCS / "overconfidence.svg": ("overconfidence", overconfidence_figure.draw)}
"""Experiment of each figure, and the function that draws it."""
PAGES = [
    RESULTS.parent / "README.md",
    *sorted(DOCS.glob("*.md")),
    *(figure for figure, (experiment, _) in FIGURES.items() if (RESULTS / f"{experiment}.json").exists()),
]


def updated(page: Path) -> str:
    """Return the text of a page with its tables made from the results, or of a figure."""
    if page in FIGURES:
        experiment, draw = FIGURES[page]
        return draw(ledger.read(RESULTS / f"{experiment}.json"))
    return markdown.fill_tables(page.read_text(), partial(catalog.render_table, RESULTS))


def main() -> None:
    """Rewrite every page and figure that is not up to date, and print its name."""
    for page in PAGES:
        text = updated(page)
        if not page.exists() or text != page.read_text():
            files.atomic_write(page, text.encode())
            print(page.name)


if __name__ == "__main__":
    main()
