import importlib.util
from pathlib import Path

import pytest

from suffice.reproduce import catalog, ledger

ROOT = Path(__file__).parents[2]
_SPEC = importlib.util.spec_from_file_location("tables", ROOT / "experiments" / "tables.py")
tables = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(tables)


@pytest.mark.parametrize("page", tables.PAGES, ids=lambda page: page.name)
def test_the_tables_of_a_page_match_the_results(page):
    assert page.read_text() == tables.updated(page), "run: python experiments/tables.py"


@pytest.mark.parametrize("name", catalog.EXPERIMENTS)
def test_committed_results_make_all_their_tables(name):
    path = ROOT / "experiments" / f"{name}.json"
    if not path.exists():
        pytest.skip("not run")
    experiment = catalog.find(name)
    for table in experiment.tables:
        assert catalog.render_table(path.parent, name, table).count("|") > 10
    assert experiment.state(path)[0] in ("full", "reduced", "smoke")
    assert ledger.read(path)["command"].startswith(f"suffice reproduce {name}")
