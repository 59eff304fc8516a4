from dataclasses import replace

import pytest
import torch
from torch import nn

import suffice
from suffice import cost
from suffice.evaluation import cached
from suffice.evaluation.ablation import AblationStudy
from suffice.reproduce.early_exit import default_subjects, defaults, overconfidence
from suffice.reproduce.early_exit.default_subjects import DefaultSubject
from suffice.utils.progress import quiet
from tests import builders

pytestmark = pytest.mark.filterwarnings("ignore:.* ended at the edge of its range")


def study(targets):
    """Return a study of a small network with random weights."""
    network = builders.network(classes=4 if targets.dtype == torch.int64 else 1)
    x = torch.randn(90, 3, generator=torch.Generator().manual_seed(0))
    parts = [cached.compute(network, [(x[i : i + 30], targets[i : i + 30])]) for i in (0, 30, 60)]
    return AblationStudy(cached.network_on_features(network), cost.count(network, x[:1]), *parts, 0)


def subject(targets, likelihood="classification"):
    return DefaultSubject("small", lambda out, progress: study(targets), likelihood)


def test_every_row_is_compared_with_the_default_on_the_same_examples(tmp_path):
    measured = defaults.measure(subject(torch.arange(90) % 4), tmp_path, quiet)
    rows = {row["name"]: row for row in measured["rows"]}
    assert list(rows) == list(overconfidence.ROWS)
    made = study(torch.arange(90) % 4)
    calibrated, _ = made.calibrated()
    outcome = suffice.evaluation.predict(calibrated, made.test)
    nlls = [suffice.metrics.nll(prediction.log_probs, outcome.labels) for prediction in outcome.predictions]
    assert rows["default"]["nll"] == pytest.approx(float(torch.stack(nlls).mean()), rel=1e-6)
    assert rows["default"]["gain"] == 0
    assert rows["default"]["interval"] == (0, 0)
    vanilla = rows["vanilla"]
    assert vanilla["gain"] == pytest.approx(vanilla["nll"] - rows["default"]["nll"])
    assert vanilla["interval"][0] < vanilla["gain"] < vanilla["interval"][1]
    assert (measured["test"], measured["exits"]) == (30, 3)
    assert 0 <= measured["posterior"] <= 3


def test_a_regression_has_the_rows_that_apply_to_it(tmp_path):
    targets = torch.randn(90, 1, generator=torch.Generator().manual_seed(1))
    measured = defaults.measure(subject(targets, "regression"), tmp_path, quiet)
    names = [row["name"] for row in measured["rows"]]
    assert names == [name for name in overconfidence.ROWS if "product" not in name and "paper" not in name]
    made = study(targets)
    calibrated, _ = made.calibrated(likelihood="regression")
    outcome = suffice.evaluation.predict(calibrated, made.test)
    normals = [torch.distributions.Normal(p.mean.double(), p.std.double()) for p in outcome.predictions]
    expected = -torch.stack([normal.log_prob(outcome.labels.double()) for normal in normals]).mean()
    assert measured["rows"][-1]["nll"] == pytest.approx(float(expected), rel=1e-6)


def results(gain, interval):
    rows = [
        {"name": "vanilla", "nll": 0.9, "gain": 0.4, "interval": (0.3, 0.5)},
        {"name": "temperature", "nll": 0.5 + gain, "gain": gain, "interval": interval},
        {"name": "default", "nll": 0.5, "gain": 0.0, "interval": (0.0, 0.0)},
    ]
    run = {"measured": {"test": 30, "exits": 4, "posterior": 1, "rows": rows}}
    return {"runs": dict.fromkeys(defaults.KEYS, run)}


@pytest.mark.parametrize(
    ("gain", "interval", "verdict"),
    [
        (0.02, (0.01, 0.03), "+0.0200 [+0.0100, +0.0300] | better |"),
        (-0.02, (-0.03, -0.01), "-0.0200 [-0.0300, -0.0100] | worse |"),
        (-0.02, (-0.05, 0.01), "-0.0200 [-0.0500, +0.0100] | no difference |"),
        (1e-5, (5e-6, 2e-5), "+0.0000 [+0.0000, +0.0000] | no difference |"),
    ],
)
def test_the_table_compares_with_the_best_row(gain, interval, verdict):
    lines = defaults.against_best(results(gain, interval)).splitlines()
    assert len(lines) == 2 + len(defaults.SUBJECTS)
    assert f"| 1 of 4 | 0.5000 | temperature | {0.5 + gain:.4f} | {verdict}" in lines[2]


def test_the_table_of_all_rows_leaves_out_what_does_not_apply():
    line = defaults.all_rows(results(0.1, (0.0, 0.2))).splitlines()[2]
    assert "| 0.9000 | 0.6000 | – |" in line
    assert line.endswith("| – | 0.5000 |")


def test_equal_rows_have_a_point_as_interval():
    assert defaults._interval(torch.zeros(9)) == (0, 0)


@pytest.mark.slow
def test_the_patients_are_disjoint_and_their_network_is_better_than_a_constant():
    made = default_subjects.patients(None, quiet)
    assert [len(part.labels) for part in (made.train, made.validation, made.test)] == [240, 60, 142]
    predicted = made.network(list(made.test.phi))[-1]
    assert nn.functional.mse_loss(predicted, made.test.labels) < 0.8 * made.test.labels.var()


def test_a_tower_has_an_exit_after_each_hidden_layer(monkeypatch):
    config = replace(default_subjects._CRITEO, hidden=(8, 6, 4), epochs=1, batch=32)
    generator = torch.Generator().manual_seed(0)
    x = {"categorical": torch.randint(5, (90, 3), generator=generator), "numeric": torch.randn(90, 2)}
    rows = (x, (torch.rand(90, generator=generator) > 0.5).float())
    read = (5, 5, 5), dict.fromkeys(("train", "validation", "test"), rows), "digest"
    monkeypatch.setattr(default_subjects.recommenders, "read", lambda config: read)
    made = default_subjects.tower(None, quiet, config=config)
    assert [phi.shape[1] for phi in made.train.phi] == [8, 6, 4]
    assert made.test.labels.dtype == torch.int64
    made = default_subjects.tower(None, quiet, config=replace(config, likelihood="regression"))
    assert made.test.labels.shape == (90, 1)
