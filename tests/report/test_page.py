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


def test_the_page_holds_a_picture_under_each_title(page):
    for i, title in enumerate(FIGURES):
        assert f"<h2>{title}</h2>" in page
        assert f'id="f{i}"' in page


def test_the_page_fetches_nothing(page):
    own = re.sub(r"<script>/\*\*.*?</script>", "", page, flags=re.DOTALL)
    assert not re.findall(r"""(?:src|href)\s*=\s*["']""", own)
    assert "@import" not in own


def test_text_is_escaped(tmp_path):
    results = {**RESULTS, "closing": "<script>alert(1)</script>"}
    write(results, [], tmp_path / "r.html")
    assert "<script>alert(1)" not in (tmp_path / "r.html").read_text()


def test_no_part_of_a_page_is_left_when_drawing_fails(tmp_path):
    with pytest.raises(KeyError):
        write({**RESULTS, "variation": {}}, [], tmp_path / "r.html")
    assert list(tmp_path.iterdir()) == []


def test_every_table_is_rectangular_and_fits_a_terminal_of_80_columns():
    for table in all_tables(RESULTS):
        assert {len(row) for row in table.rows} == {len(table.header)}
        cells = [table.header, *table.rows]
        widths = [max(len(row[i]) for row in cells) + 3 for i in range(len(table.header))]
        assert sum(widths) - 1 <= 80, (table.title, sum(widths))
