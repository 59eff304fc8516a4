"""Update every table in the README and in docs/ from the results in this folder.

    python experiments/tables.py

replaces the text between `<!-- table EXPERIMENT TABLE -->` and `<!-- end -->`. A test fails if a page is out of date.
"""

from functools import partial
from pathlib import Path

from suffice.reproduce import catalog, markdown
from suffice.storage import files

RESULTS = Path(__file__).parent
PAGES = [RESULTS.parent / "README.md", *sorted((RESULTS.parent / "docs").glob("*.md"))]


def updated(page: Path) -> str:
    """Return the text of a page with its tables made from the results."""
    return markdown.fill_tables(page.read_text(), partial(catalog.render_table, RESULTS))


def main() -> None:
    """Rewrite every page that is not up to date, and print its name."""
    for page in PAGES:
        text = updated(page)
        if text != page.read_text():
            files.atomic_write(page, text.encode())
            print(page.name)


if __name__ == "__main__":
    main()
