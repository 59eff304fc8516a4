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
def case():
    x = inputs(400)
    labels = sampled_labels(2 * x[:, :1] * torch.arange(4.0))
    net = trained(network(), x, lambda logits: torch.nn.functional.cross_entropy(logits, labels)).eval()
    splits = (features(net, 400, 0), features(net, 300, 1), features(net, 500, 2))
    return AblationStudy(cached.over(net), cost.count(net, x[:1]), *splits, seed=0), net


def test_the_same_choices_are_calibrated_once(case):
    assert case[0].calibrated(ensemble=False)[0] is case[0].calibrated(ensemble=False)[0]
    assert case[0].calibrated()[0] is not case[0].calibrated(ensemble=False)[0]


def test_a_row_has_what_a_table_shows(case):
    measured = measurements.row(case[0], **evaluation.ABLATION["all"])
    assert set(evaluation.MEASURES) < measured["averaged"].keys()
    assert len(measured["curve"]) == 39
    assert len(measured["exits"]) == 3
    assert all(low <= high for low, high in measured["intervals"].values())


def test_budgets_say_what_was_requested_and_what_was_spent(case):
    costs = case[0].calibrated()[0].costs.cumulative
    for answer in measurements.row(case[0])["curve"]:
        spent = sum(share * price for share, price in zip(answer["shares"], costs, strict=True))
        assert answer["macs"] == pytest.approx(spent, rel=1e-5)
        assert answer["requested"] == pytest.approx(answer["macs"], rel=0.2)


def test_what_a_part_adds_is_the_difference_of_two_rows(case):
    found = measurements.added(case[0])["ensemble to temperature"]
    rows = [
        measurements.row(case[0], **evaluation.ABLATION[name]) for name in measurements.ADDED["ensemble to temperature"]
    ]
    for measure, difference in found.items():
        without, having = (row["averaged"][measure] for row in rows)
        assert difference["mean"] == pytest.approx(having - without, abs=1e-6)
        low, high = difference["interval"]
        assert low < difference["mean"] < high


def test_scores_decide_at_equal_cost(case):
    rows = measurements.by_score(case[0])
    assert [row["score"] for row in rows] == list(measurements.SCORES)
    spent = [row["macs"] for row in rows]
    assert max(spent) < 1.1 * min(spent)
    assert all(math.isfinite(row[measure]) for row in rows for measure in ("accuracy", "eefp", "aurc"))


def test_far_inputs_are_told_apart_by_their_density(case):
    found = measurements.strangers(case[0], features(case[1], 200, 3, move=6.0))
    assert found["density"]["auroc"] > 0.9


def test_running_quantiles_keep_the_cost_that_frozen_thresholds_lose(case):
    found = measurements.under_corruption(case[0], {"moved": features(case[1], 3000, 4, move=1.0)})
    frozen, running = (abs(found["moved"][way]["cost"] - 1) for way in ("frozen", "running"))
    assert running < frozen
    assert running < 0.05


@pytest.mark.parametrize("other", measurements.OTHERS.values(), ids=measurements.OTHERS)
def test_rows_of_another_loss_are_shown_where_they_were_measured(case, other):
    runs = {name: {"measured": measurements.row(case[0], **choices)} for name, choices in evaluation.ABLATION.items()}
    assert other.title not in tables.averaged({"runs": runs})
    assert other.title not in tables.losses({"runs": runs})
    runs |= {name: {"measured": measurements.row(case[0], **choices)} for name, choices in other.choices.items()}
    assert f"| {other.title}, vanilla |" in tables.averaged({"runs": runs})
    compared = tables.losses({"runs": runs})
    for row in ("vanilla", "temperature", "all", *other.choices):
        assert f"| {row} | {100 * runs[row]['measured']['averaged']['accuracy']:.2f} [" in compared


def test_the_frontier_is_read_between_two_budgets():
    curve = [{"macs": 14e6, "accuracy": 0.5, "ece": 0.01}, {"macs": 16e6, "accuracy": 0.6, "ece": 0.03}]
    runs = {"vanilla": {"measured": {"curve": curve}}, "scores": {"measured": {"rows": []}}}
    assert "| vanilla | 55.00 / 0.020 |" in tables.frontier({"runs": runs})


def test_a_full_run_takes_six_operations_a_multiply_add_image_and_epoch():
    measured = {"macs": {"4": 1_000_000_000}, "images": 1_000_000, "epochs": 90}
    assert "| MSDNet 4 | 1.00 | 0.54 | 3 |" in tables.full_run({"runs": {"full run": {"measured": measured}}})


@pytest.mark.slow
def test_every_table_is_made_from_the_results(case, tmp_path):
    book = Ledger(tmp_path / "x.json", "", {}, {})
    book.fill("net", measurements.measures(), lambda: (case[1], case[0]))
    assert "|" not in tables.strangers(book.results)
    for name, choices in measurements.OTHERS["smoothed"].choices.items():
        book.run(name, partial(measurements.row, case[0], **choices))
    for far in ("far", "farther"):
        book.run(f"strangers: {far}", lambda: measurements.strangers(case[0], features(case[1], 200, 3, move=6.0)))
    book.run(
        "corruptions", lambda: measurements.under_corruption(case[0], {"moved": features(case[1], 500, 4, move=1.0)})
    )
    for make in tables.OF_SMALL_IMAGES.values():
        lines = make(book.results).splitlines()
        assert len(lines) > 2
        assert len({line.count("|") for line in lines}) == 1
    assert "| far | farther |" in tables.strangers(book.results)
