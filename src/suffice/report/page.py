"""One page that needs nothing but itself: pictures, tables and what was found; no network access."""

from collections.abc import Sequence
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from suffice.report.tables import Table
from suffice.storage.files import write as write_file


def check_packages() -> None:
    """Raise an ImportError without the extra "report"."""
    missing = [name for name in ("plotly", "jinja2") if find_spec(name) is None]
    if missing:
        raise ImportError(f"expected {' and '.join(missing)} for the report, found none; pip install 'suffice[report]'")


def write(results: dict[str, Any], tables: Sequence[Table], path: Path) -> None:
    """Write the report of `results` (as `suffice demo --json` prints them) to an HTML file, whole or absent.

    Raises:
        ImportError: as `check_packages`.
        FileExistsError: if something is there that is no report of ours.
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
    write_file(path, html.encode(), MARK)


MARK = b"<title>suffice: report</title>"
"""Near the beginning of every report."""
_PLAIN = {"displayModeBar": False, "responsive": True}
