import pytest
import torch
from torch import nn

from suffice.reproduce.dropout import letters, measurements, recommenders, tables
from suffice.reproduce.dropout.measurements import DropoutRates, Task
from suffice.reproduce.dropout.recommenders import CRITEO, MOVIELENS


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(measurements, "ROWS", {"train": 300, "validation": 60, "test": 60})
    monkeypatch.setattr(measurements, "TRUTH_PASSES", 20)
    monkeypatch.setattr(tables, "RATES", (DropoutRates(0.2),))
    monkeypatch.setattr(measurements, "RATES", (DropoutRates(0.2),))


def rows(count, numeric, seed):
    """Make rows whose second column is the seed, which identifies their split."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.stack([torch.randint(7, (count,), generator=generator), torch.full((count,), seed)], dim=1)
    x = {"categorical": ids} | ({"numeric": torch.randn(count, 3, generator=generator)} if numeric else {})
    return x, (ids[:, 0] > 3).float()


def splits(numeric):
    return {split: rows(400, numeric, seed) for seed, split in enumerate(measurements.ROWS)}


@pytest.mark.parametrize("config", [MOVIELENS, CRITEO])
def test_a_tower_learns_and_its_rows_come_from_their_splits(config):
    data = splits(numeric=config is CRITEO)
    task = recommenders.task(config, (7, 5), data, DropoutRates(0.2, inputs=0.1), 0)
    assert {split: len(x["categorical"]) for split, x in task.inputs.items()} == {
        split: min(count, 400) for split, count in recommenders.ROWS.items()
    }
    for mark, split in enumerate(measurements.ROWS):
        assert (task.inputs[split]["categorical"][:, 1] == mark).all()
    rates = sorted(module.p for module in task.model.modules() if isinstance(module, nn.Dropout))
    assert rates == [0.1] + [0.2] * len(config.hidden)
    assert task.quality.keys() == ({"rmse"} if config is MOVIELENS else {"auc", "log loss, nats"})


def test_training_lowers_the_loss_and_the_same_seed_gives_the_same_network():
    x, _ = rows(400, numeric=True, seed=0)
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 1))
        target = x["numeric"][:, :1]
        measurements.fit(
            model,
            x["numeric"],
            nn.functional.mse_loss,
            target,
            epochs=40,
            batch=32,
            generator=torch.Generator().manual_seed(1),
        )
        models.append(model)
    assert nn.functional.mse_loss(measurements.predict(models[0], x["numeric"]), target) < 0.2 * target.var()
    assert torch.equal(models[0][0].weight, models[1][0].weight)


@pytest.mark.slow
def test_all_estimates_are_measured_recorded_and_shown(tmp_path):
    def make(rates, seed):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Dropout(rates.hidden), nn.Linear(16, 1)).eval()
        inputs = {split: torch.randn(count, 4) for split, count in measurements.ROWS.items()}
        return Task(model, "regression", inputs, {"rmse": 1.0})

    results = measurements.run(tmp_path, "x", {}, {}, make, lambda *_: None)
    assert len(results["runs"]) == len(measurements.SEEDS)
    names = {row["name"] for row in results["runs"]["p = 0.2; seed 0"]["measured"]["rows"]}
    assert names > {*measurements.ESTIMATORS, "dropout, T = 10", "delta rule", "last layer, exact", "inputs only"}
    for make_table in tables.TABLES.values():
        lines = make_table(results).splitlines()
        assert len({line.count("|") for line in lines}) == 1
        assert len(lines) > 2


def test_the_network_for_letters_has_dropout_where_the_rates_state():
    plain, with_input = letters.network(DropoutRates(0.5)), letters.network(DropoutRates(0.2, inputs=0.1))
    assert plain(torch.zeros(2, 1, 28, 28)).shape == (2, letters.CLASSES)
    assert not isinstance(plain[0], nn.Dropout)
    assert isinstance(with_input[0], nn.Dropout)
    assert with_input[0].p == 0.1
