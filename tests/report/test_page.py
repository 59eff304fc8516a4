import re

import pytest

from suffice.report.figures import FIGURES
from suffice.report.page import write
from suffice.report.tables import all_tables
from tests.report.results import RESULTS


@pytest.fixture
def page(tmp_path):
    write(RESULTS, all_tables(RESULTS), tmp_path / "report.html")
    return (tmp_path / "report.html").read_text()


def test_the_page_has_a_figure_under_each_title(page):
    for i, title in enumerate(FIGURES):
        assert f"<h2>{title}</h2>" in page
        assert f'id="f{i}"' in page


def test_the_page_loads_nothing(page):
    without_plotly = re.sub(r"<script>/\*\*.*?</script>", "", page, flags=re.DOTALL)
    assert not re.findall(r"""(?:src|href)\s*=\s*["']""", without_plotly)
    assert "@import" not in without_plotly


def test_text_is_escaped(tmp_path):
    results = {**RESULTS, "closing": "<script>alert(1)</script>"}
    write(results, [], tmp_path / "r.html")
    assert "<script>alert(1)" not in (tmp_path / "r.html").read_text()


def test_nothing_is_left_of_a_page_when_a_figure_fails(tmp_path):
    with pytest.raises(KeyError):
        write({**RESULTS, "variation": {}}, [], tmp_path / "r.html")
    assert list(tmp_path.iterdir()) == []
