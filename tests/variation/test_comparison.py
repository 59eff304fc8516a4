import pytest
import torch
from torch import nn

from suffice.models import convnet, tower
from suffice.variation import comparison
from suffice.variation.comparison import FitSpec, compare
from suffice.variation.teachers.dropout import MCDropout
from suffice.variation.teachers.ensemble import EnsembleTeacher
from tests.robustness.surroundings import anywhere

MEASURES = {"r2", "r2_log", "spearman", "auc_low", "auc_high"}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def ids(n, seed=0):
    return torch.randint(9, (n, 2), generator=seeded(seed))


def rating_tower(**choices):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = tower([9, 9], hidden=(12, 8), embedding=4, **choices)
        nn.init.normal_(model.stages[0][0].table.weight)
    return model.eval()


def compared(model, teacher, batches, train, validation, truth_passes=1000, **choices):
    spec = FitSpec([train], [validation], teacher, **choices)
    return compare(model, spec, batches, truth_passes=truth_passes, generator=seeded(5), progress=lambda *_: None)


def by_name(comparison):
    return {row["name"]: row for row in comparison.rows}


@pytest.mark.parametrize("likelihood", ["regression", "binary"])
def test_every_estimate_of_a_tower_is_compared(likelihood):
    teacher = MCDropout(passes=10, likelihood=likelihood)
    data = ids(300, 2).split(100), ids(2000), ids(400, 1)
    result = compared(rating_tower(dropout=0.3, embedding_dropout=0.1), teacher, *data)
    rows = by_name(result)
    assert list(rows) == [
        *(f"dropout, T = {passes}" for passes in comparison.PASSES),
        "delta rule",
        "margins",
        "moments, diagonal",
        "moments, full",
        "inputs only",
        "prediction only",
        "estimator",
    ]
    assert all(set(row) == {"name", "passes", "estimate", *MEASURES} for row in rows.values())
    assert "one dropout, on the inputs of the last linear layer" in result.left_out["last layer, exact"]
    assert rows["dropout, T = 10"]["r2"] < rows["dropout, T = 50"]["r2"] < rows["dropout, T = 100"]["r2"] < 1
    assert rows["moments, full"]["r2"] > 0.9
    # Both are the first order in the dropped values, those of the embeddings included.
    assert rows["margins"]["r2"] == pytest.approx(rows["delta rule"]["r2"], rel=1e-4)
    assert min(rows["inputs only"]["r2"], rows["estimator"]["r2"]) > 0.8
    assert rows["prediction only"]["r2"] < rows["estimator"]["r2"]
    assert result.estimators["estimator"].layers
    assert not result.estimators["prediction only"].layers


def test_dropout_before_the_last_layer_alone_has_its_exact_row():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Dropout(0.4), nn.Linear(16, 1)).eval()
    x = torch.randn(2700, 3, generator=seeded())
    teacher = MCDropout(passes=10, likelihood="regression")
    rows = by_name(compared(model, teacher, x[:300].split(100), x[300:2300], x[2300:], truth_passes=4000))
    for name in ("last layer, exact", "margins", "delta rule", "moments, full", "moments, diagonal"):
        assert rows[name]["r2"] == pytest.approx(1, abs=0.005)
        assert rows[name]["r2_log"] == pytest.approx(1, abs=0.005)
        assert rows[name]["auc_low"] > 0.99
    assert rows["inputs only"]["r2"] > 0.9


def test_the_truth_of_few_passes_is_unbiased():
    """Deviations over five passes are 6 % too small; 2 · 3,000 of them suffice to detect a third of that."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 64), nn.ReLU(), nn.Dropout(0.4), nn.Linear(64, 1)).eval()
    x = torch.randn(3300, 3, generator=seeded())
    teacher = MCDropout(passes=4, likelihood="regression")
    ridge = {"ridge": {"method": "ridge", "layers": []}}
    result = compared(model, teacher, [x[:3000]], x[3000:3200], x[3200:], truth_passes=10, estimators=ridge)
    exact = torch.tensor(by_name(result)["last layer, exact"]["estimate"], dtype=torch.float64)
    assert float((result.truth / exact).mean()) == pytest.approx(1, abs=0.02)


def test_baselines_that_do_not_apply_are_left_out_with_the_reason():
    x = torch.rand(260, 1, 8, 8, generator=seeded())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = convnet(4, widths=(3, 5), dropout=0.3).eval()
    data = [x[:60]], x[60:160], x[160:]
    result = compared(model, MCDropout(passes=4), *data, truth_passes=20)
    assert "Linear, ReLU, Dropout" in result.left_out["moments, full"]
    assert "inputs only" in by_name(result)
    chosen = compared(model, MCDropout(rate=0.2, at=["stages.0"], passes=4), *data, truth_passes=20)
    assert "at=None, got at=('stages.0',)" in chosen.left_out["last layer, exact"]
    assert "delta rule" in by_name(chosen)
    assert "which is elsewhere" in chosen.left_out["margins"]
    other = compared(model, MCDropout(passes=4), *data, truth_passes=20, target="disagreement")
    assert "the target 'std', got MCDropout, 'disagreement'" in other.left_out["delta rule"]
    assert "estimator" in by_name(other)


def test_an_ensemble_measures_the_truth_itself_and_has_no_rows_of_passes():
    models = [rating_tower(), rating_tower()]
    with torch.no_grad():
        for parameter in models[1].parameters():
            parameter += torch.randn(parameter.shape, generator=seeded(3)) / 4
    data = ids(200, 2).split(100), ids(900), ids(300, 1)
    teacher = EnsembleTeacher(models, likelihood="regression")
    result = compared(models[0], teacher, *data, estimators={"ridge": {"method": "ridge"}})
    assert [row["name"] for row in result.rows] == ["inputs only", "ridge"]
    torch.testing.assert_close(result.truth, torch.cat([teacher(models[0], batch)["std"] for batch in data[0]]))


def test_ids_without_embeddings_have_no_row_of_inputs():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(2, 2)

        def forward(self, ids):
            return self.linear(torch.dropout(ids.float(), 0.5, self.training))

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Counting()
    estimators = {"prediction only": {"layers": []}}
    data = [ids(60, 2)], ids(100), ids(90, 1)
    result = compared(model, MCDropout(passes=4), *data, truth_passes=20, estimators=estimators)
    assert "expected a model with Embeddings" in result.left_out["inputs only"]
    assert "expected a tower, nn.Sequential or ExitNetwork, got Counting" in result.left_out["moments, full"]


@anywhere
def test_the_modes_of_the_caller_change_nothing(surrounding):
    model, data = rating_tower(dropout=0.3), ([ids(40, 2)], ids(200), ids(100, 1))
    choices = {"truth_passes": 8, "estimators": {"ridge": {"method": "ridge"}}}
    teacher = MCDropout(passes=4, likelihood="regression")
    expected = compared(model, teacher, *data, **choices)
    with surrounding():
        result = compared(model, teacher, *data, **choices)
    assert torch.equal(result.truth, expected.truth)
    assert [row["estimate"] for row in result.rows] == [row["estimate"] for row in expected.rows]
