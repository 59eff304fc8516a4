"""Make every table of the README and of docs/ anew from the results beside this file.

    python experiments/tables.py

rewrites what stands between `<!-- table EXPERIMENT TABLE -->` and `<!-- end -->`; a test fails where that differs.
"""

from pathlib import Path

from suffice.reproduce import catalog, markdown
from suffice.storage import files

RESULTS = Path(__file__).parent
PAGES = [RESULTS.parent / "README.md", *sorted((RESULTS.parent / "docs").glob("*.md"))]


def renewed(page: Path) -> str:
    """The page with its tables made anew."""
    return markdown.filled(page.read_text(), lambda experiment, table: catalog.made(RESULTS, experiment, table))


def main() -> None:
    """Rewrite every page that changed, and name it."""
    for page in PAGES:
        text = renewed(page)
        if text != page.read_text():
            files.write(page, text.encode())
            print(page.name)


if __name__ == "__main__":
    main()
