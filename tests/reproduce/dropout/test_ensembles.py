import pytest
import torch

from suffice.models import tower
from suffice.reproduce.dropout import ensembles, recommenders
from suffice.reproduce.ledger import Ledger
from suffice.variation.learning import agreement
from suffice.variation.teachers.ensemble import EnsembleTeacher


def ids(count, seed):
    return {"categorical": torch.randint(6, (count, 2), generator=torch.Generator().manual_seed(seed))}


def members(seeds):
    networks = []
    for seed in seeds:
        torch.manual_seed(seed)
        networks.append(tower([6, 6], embedding=4, hidden=(8,), dropout=0.0).eval())
    return networks


def test_estimates_are_evaluated_against_other_ensembles_than_the_teacher(tmp_path, monkeypatch):
    monkeypatch.setattr(ensembles, "ESTIMATORS", {"estimator": {"layers": []}})
    networks = [members(range(8 * i, 8 * i + 8)) for i in range(3)]
    inputs = {"train": ids(300, 0), "validation": ids(60, 1), "test": ids(36, 2)}
    book = Ledger(tmp_path / "x.json", "", {}, {})
    measured = book.run("seed 0", lambda: ensembles.measure(networks, inputs, 0, lambda *_: None))
    rows = {row["name"]: row for row in measured["rows"]}
    assert rows.keys() == {"another ensemble of 8", *ensembles.ESTIMATORS}
    teacher, *references = (EnsembleTeacher(part, "regression")(part[0], inputs["test"])["std"] for part in networks)
    expected = agreement.measures(teacher, *(agreement.unbiased(reference, 8) for reference in references))
    assert {name: rows["another ensemble of 8"][name] for name in expected} == pytest.approx(expected)
    assert len(ensembles.spreads(book.results).splitlines()) == 2 + len(rows)


def test_rows_are_sampled_with_the_seed():
    splits = {split: (ids(50, 0), torch.zeros(50)) for split in recommenders.ROWS}
    first, again, other = (recommenders.sample_inputs(splits, seed)["test"]["categorical"] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
