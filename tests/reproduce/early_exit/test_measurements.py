import math
from functools import partial

import pytest
import torch

from suffice import cost, evaluation
from suffice.evaluation import cached
from suffice.network import ExitNetwork
from suffice.reproduce.early_exit import measurements, tables
from suffice.reproduce.early_exit.measurements import AblationStudy
from suffice.reproduce.ledger import Ledger
from tests.builders import batched, inputs, network, sampled_labels, trained

pytestmark = pytest.mark.filterwarnings("ignore:the .* ended at the edge")


def features(net: ExitNetwork, count: int, seed: int, move: float = 0.0) -> cached.Features:
    x = inputs(count, seed=seed)
    labels = sampled_labels(2 * x[:, :1] * torch.arange(4.0), seed=seed)
    return cached.compute(net, batched(x + move, labels, 50))


@pytest.fixture(scope="module")
def net():
    x = inputs(400)
    labels = sampled_labels(2 * x[:, :1] * torch.arange(4.0))
    return trained(network(), x, lambda logits: torch.nn.functional.cross_entropy(logits, labels)).eval()


@pytest.fixture(scope="module")
def study(net):
    splits = (features(net, 400, 0), features(net, 300, 1), features(net, 500, 2))
    return AblationStudy(cached.network_on_features(net), cost.count(net, inputs(1)), *splits, seed=0)


def test_the_same_choices_are_calibrated_once(study):
    assert study.calibrated(ensemble=False)[0] is study.calibrated(ensemble=False)[0]
    assert study.calibrated()[0] is not study.calibrated(ensemble=False)[0]


def test_a_row_has_all_values_of_a_table(study):
    measured = measurements.row(study, **evaluation.ABLATION["all"])
    assert set(evaluation.MEASURES) < measured["averaged"].keys()
    assert len(measured["curve"]) == 39
    assert len(measured["exits"]) == 3
    assert all(low <= high for low, high in measured["intervals"].values())


def test_a_curve_holds_requested_and_spent_multiply_adds(study):
    costs = study.calibrated()[0].costs.cumulative
    for answer in measurements.row(study)["curve"]:
        spent = sum(share * price for share, price in zip(answer["shares"], costs, strict=True))
        assert answer["macs"] == pytest.approx(spent, rel=1e-5)
        assert answer["requested"] == pytest.approx(answer["macs"], rel=0.2)


def test_a_part_adds_the_difference_of_two_rows(study):
    pair = measurements.ROW_PAIRS["ensemble to temperature"]
    differences = measurements.differences(study, evaluation.ABLATION, {"ensemble": pair})
    rows = [measurements.row(study, **evaluation.ABLATION[name]) for name in pair]
    for measure, difference in differences["ensemble"].items():
        without, having = (row["averaged"][measure] for row in rows)
        assert difference["mean"] == pytest.approx(having - without, abs=1e-6)
        low, high = difference["interval"]
        assert low < difference["mean"] < high


def test_scores_are_compared_at_equal_cost(study):
    rows = measurements.by_score(study)
    assert [row["score"] for row in rows] == list(measurements.SCORES)
    spent = [row["macs"] for row in rows]
    assert max(spent) < 1.1 * min(spent)
    assert all(math.isfinite(row[measure]) for row in rows for measure in ("accuracy", "eefp", "aurc"))


def test_the_density_detects_far_inputs(study, net):
    detection = measurements.ood_detection(study, features(net, 200, 3, move=6.0))
    assert detection["density"]["auroc"] > 0.9


def test_running_quantiles_keep_the_cost_that_frozen_thresholds_lose(study, net):
    streams = measurements.under_corruption(study, {"moved": features(net, 3000, 4, move=1.0)})
    frozen, running = (abs(streams["moved"][way]["cost"] - 1) for way in ("frozen", "running"))
    assert running < frozen
    assert running < 0.05


@pytest.mark.parametrize("loss", measurements.ALTERNATIVE_LOSSES.values(), ids=measurements.ALTERNATIVE_LOSSES)
def test_rows_of_another_loss_are_shown_where_they_were_measured(study, loss):
    runs = {name: {"measured": measurements.row(study, **choices)} for name, choices in evaluation.ABLATION.items()}
    assert loss.title not in tables.averaged({"runs": runs})
    assert loss.title not in tables.losses({"runs": runs})
    runs |= {name: {"measured": measurements.row(study, **choices)} for name, choices in loss.choices.items()}
    assert f"| {loss.title}, vanilla |" in tables.averaged({"runs": runs})
    compared = tables.losses({"runs": runs})
    for row in ("vanilla", "temperature", "all", *loss.choices):
        assert f"| {row} | {100 * runs[row]['measured']['averaged']['accuracy']:.2f} [" in compared


def test_the_frontier_is_read_between_two_budgets():
    curve = [{"macs": 14e6, "accuracy": 0.5, "ece": 0.01}, {"macs": 16e6, "accuracy": 0.6, "ece": 0.03}]
    runs = {"vanilla": {"measured": {"curve": curve}}, "scores": {"measured": {"rows": []}}}
    assert "| vanilla | 55.00 / 0.020 |" in tables.frontier({"runs": runs})


def test_a_full_run_takes_six_operations_a_multiply_add_image_and_epoch():
    measured = {"macs": {"4": 1_000_000_000}, "images": 1_000_000, "epochs": 90}
    assert "| MSDNet 4 | 1.00 | 0.54 | 3 |" in tables.full_run({"runs": {"full run": {"measured": measured}}})


@pytest.mark.slow
def test_every_table_is_made_from_the_results(study, net, tmp_path):
    book = Ledger(tmp_path / "x.json", "", {}, {})
    book.fill("net", measurements.measures(), lambda: (net, study))
    assert "|" not in tables.ood(book.results)
    for name, choices in measurements.ALTERNATIVE_LOSSES["smoothed"].choices.items():
        book.run(name, partial(measurements.row, study, **choices))
    for far in ("far", "farther"):
        book.run(f"ood: {far}", lambda: measurements.ood_detection(study, features(net, 200, 3, move=6.0)))
    book.run("corruptions", lambda: measurements.under_corruption(study, {"moved": features(net, 500, 4, move=1.0)}))
    for make in tables.SMALL_IMAGE_TABLES.values():
        lines = make(book.results).splitlines()
        assert len(lines) > 2
        assert len({line.count("|") for line in lines}) == 1
    assert "| far | farther |" in tables.ood(book.results)
