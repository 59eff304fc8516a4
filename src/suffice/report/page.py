"""One self-contained HTML page with the figures and tables of a report; it loads nothing from the network."""

from collections.abc import Sequence
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from suffice.report.tables import Table
from suffice.storage.files import atomic_write


def check_packages() -> None:
    """Raise an ImportError unless the extra "report" is installed."""
    missing = [name for name in ("plotly", "jinja2") if find_spec(name) is None]
    if missing:
        raise ImportError(f"expected {' and '.join(missing)} for the report, found none; pip install 'suffice[report]'")


def write(results: dict[str, Any], tables: Sequence[Table], path: Path) -> None:
    """Write the report of `results` (as `suffice demo --json` prints them) to an HTML file, atomically.

    Raises:
        ImportError: If the extra "report" is not installed.
        FileExistsError: If the path holds a file that is not such a report.
    """
    check_packages()
    import jinja2
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    from suffice.report.figures import FIGURES

    figures = [
        {
            "title": title,
            "html": figure(results).to_html(full_html=False, include_plotlyjs=False, config=_PLAIN, div_id=f"f{i}"),
        }
        for i, (title, figure) in enumerate(FIGURES.items())
    ]
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(resources.files("suffice.report").joinpath("page.html.j2").read_text("utf-8"))
    html = template.render(
        plotly_js=Markup(get_plotlyjs()),
        figures=[{**figure, "html": Markup(figure["html"])} for figure in figures],
        tables=tables,
        about=results["about"],
        closing=results["closing"],
    )
    atomic_write(path, html.encode(), MARK)


MARK = b"<title>suffice: report</title>"
"""Bytes near the beginning of every report, by which it is recognized."""
_PLAIN = {"displayModeBar": False, "responsive": True}
