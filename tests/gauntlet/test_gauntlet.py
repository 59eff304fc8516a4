from importlib.util import find_spec

import pytest

from tests.gauntlet import exported
from tests.gauntlet.families import BY_NAME, FAMILIES, GROUPS
from tests.gauntlet.hub import is_hub
from tests.gauntlet.page import published, section
from tests.gauntlet.run import run

SAMPLE = ["Residual network", "`nn.TransformerEncoder` with a padding mask"]
SAMPLE += ["BERT"] if find_spec("transformers") else []


def test_a_sample_of_families_is_cut_bit_for_bit_and_works_the_whole_way(tmp_path):
    results = run([BY_NAME[name] for name in SAMPLE], tmp_path)
    faults = [fault for result in results for fault in result.faults]
    assert not faults, "\n".join(faults)
    assert [result.jobs["exits"].result for result in results] == ["bit for bit"] * len(SAMPLE)


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
def test_every_family_is_cut_bit_for_bit_or_refused_by_name_as_published(group, tmp_path):
    families = [family for family in FAMILIES if family.group == group]
    if any(map(is_hub, families)):
        pytest.importorskip("transformers")
    results = run(families, tmp_path)
    faults = [fault for result in results for fault in result.faults]
    assert not faults, "\n".join(faults)
    assert section(group, results).strip() == published()[group].partition("\n*Written")[0].strip()


def test_the_page_has_every_family_without_a_fault_and_at_least_twenty_of_transformers_are_cut():
    lines = [line.strip("| ").split(" | ") for text in published().values() for line in text.splitlines()]
    rows = {name: cells for name, *cells in lines if len(cells) == 4 and name not in ("model", "---")}
    assert list(rows) == [family.name for family in FAMILIES]
    assert [name for name, cells in rows.items() if "fault" in cells] == []
    hub = [family.name for family in FAMILIES if is_hub(family)]
    assert len(hub) >= 26
    assert sum(rows[name][0] == "bit for bit" for name in hub) >= 20


def test_the_page_of_exported_models_has_every_family_without_a_fault():
    lines = [line.strip("| ").split(" | ") for line in exported.PAGE.read_text().splitlines() if line.startswith("| ")]
    rows = {name: cell for name, cell in lines if name not in ("model", "---")}
    assert list(rows) == [family.name for family in FAMILIES]
    assert [name for name, cell in rows.items() if cell == "fault"] == []
    assert sum(rows[family.name] == exported.RUNS for family in FAMILIES if is_hub(family)) >= 20
    assert all(cell == exported.RUNS or cell.startswith(exported.REFUSED) for cell in rows.values())
