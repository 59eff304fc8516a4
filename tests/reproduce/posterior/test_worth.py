from functools import partial

import pytest
import torch

from suffice.data.sources import digits
from suffice.evaluation.cached import Features
from suffice.reproduce.posterior import acquisition, moved, regressions, unfamiliar, worth
from suffice.reproduce.posterior.comparison import Comparison, ridge, rows_per_class


def test_every_class_gets_its_number_of_rows_and_the_others_are_kept():
    labels = torch.arange(60) % 3
    chosen, others = rows_per_class(labels, 4, torch.Generator().manual_seed(0))
    assert labels[chosen].bincount().tolist() == [4, 4, 4]
    assert sorted([*chosen.tolist(), *others.tolist()]) == list(range(60))


@pytest.mark.parametrize(("measure", "gain"), [("NLL", [0.5, -0.25]), ("AUROC", [-0.5, 0.25])])
def test_a_gain_is_positive_where_the_posterior_is_better(measure, gain):
    row = {"measure": measure, "without": [1.0, 0.5], "having": [0.5, 0.75]}
    assert worth.gain(row) == gain


def test_the_interval_of_a_mean_is_that_of_student():
    half = 4.302653 / 3**0.5  # the 97.5 % quantile of Student's t with 2 degrees of freedom, from a table
    assert worth.interval([1.0, 2.0, 3.0]) == pytest.approx((2 - half, 2 + half))
    assert worth.interval([0.0] * 5) == (0, 0)


def test_a_case_keeps_the_values_of_all_seeds_in_their_order():
    case = worth.Case("case", (3, 5), lambda seed: [Comparison("a", "b", "NLL", seed, 2 * seed)])
    (row,) = worth.measure(case)["rows"]
    assert (row["posterior"], row["instead_of"], row["without"], row["having"]) == ("a", "b", [3, 5], [6, 10])


@pytest.mark.parametrize(
    ("having", "verdict"),
    [
        ([0.5, 0.6, 0.55], "better"),
        ([1.5, 1.6, 1.55], "worse"),
        ([0.5, 1.6, 1.0], "open"),
        ([1.00001, 1.00002, 1.00001], "equal"),
    ],
)
def test_a_verdict_needs_an_interval_without_zero(having, verdict, monkeypatch):
    monkeypatch.setattr(worth, "CASES", (worth.Case("case", (0, 1, 2), lambda seed: []),))
    row = {"posterior": "a", "instead_of": "b", "measure": "NLL", "without": [1.0, 1.0, 1.0], "having": having}
    results = {"runs": {"case": {"measured": {"rows": [row]}}}}
    assert worth.worth(results).splitlines()[-1].endswith(f"| {verdict} |")


def test_the_first_measure_of_a_comparison_is_in_one_table_and_the_others_in_another(monkeypatch):
    monkeypatch.setattr(worth, "CASES", (worth.Case("case", (0, 1), lambda seed: []),))
    rows = [
        {"posterior": posterior, "instead_of": "b", "measure": measure, "without": [1, 2], "having": [2, 4]}
        for posterior in ("a", "c")
        for measure in ("NLL", "ECE")
    ]
    results = {"runs": {"case": {"measured": {"rows": rows}}}}
    assert [line.split("|")[2].strip() for line in worth.worth(results).splitlines()[2:]] == ["NLL", "NLL"]
    assert [line.split("|")[2].strip() for line in worth.other_measures(results).splitlines()[2:]] == ["ECE", "ECE"]


def test_every_measure_of_a_case_has_a_direction():
    known = {*worth.RISING, "NLL", "ECE", "CRPS", "RMSE", regressions.COVERAGE}
    for compare in (
        unfamiliar.of_digits,
        partial(moved.of_digits, share=1.0),
        partial(regressions.of_diabetes, examples=30),
    ):
        assert {each.measure for each in compare(0)} <= known


def test_unknown_classes_of_features_are_those_that_were_not_chosen():
    labels = torch.arange(100).repeat(2)
    features = Features([labels[:, None].float()], labels)
    classes = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    known, unknown = unfamiliar._known(features, classes)
    assert known.phi[0][:, 0].long().equal(classes[known.labels])
    assert set(unknown.phi[0][:, 0].long().tolist()) == set(classes[unfamiliar.KNOWN_CLASSES :].tolist())


def test_the_inputs_of_an_arm_are_the_pixels_in_its_columns():
    images, _ = digits.all_images()
    arms = acquisition._by_arm(images[:2])
    assert arms.shape == (2, 10, 640)
    assert arms[1, 3].reshape(10, 64)[3].equal(images[1].flatten())
    assert arms[1, 3].count_nonzero() == images[1].count_nonzero()


def test_patients_of_the_greatest_variance_are_far_from_the_known_ones(monkeypatch):
    monkeypatch.setattr(regressions, "ROUNDS", 1)
    fitted = []
    monkeypatch.setattr(regressions, "ridge", lambda x, y: fitted.append(x) or ridge(x, y))
    regressions._acquire("variance", 0)
    known, chosen = fitted[0], fitted[-1][-1]
    x, _, order = regressions._shuffled(0)
    pool = x[order[regressions.INITIAL : -regressions.TEST]]
    inverse = (known.T @ known + 1e-6 * torch.eye(known.shape[1])).inverse()
    leverage = ((pool @ inverse) * pool).sum(dim=1)
    assert ((pool == chosen).all(dim=1)).nonzero().item() in leverage.topk(20).indices


def test_a_regression_is_tested_on_patients_that_nothing_was_fitted_to():
    _, _, order = regressions._shuffled(0)
    largest = max(case.compare.keywords["examples"] for case in worth.CASES if case.title.startswith("regression"))
    assert largest + regressions.VALIDATION + regressions.TEST <= len(order)


@pytest.mark.slow
def test_labels_and_rewards_are_compared(monkeypatch):
    monkeypatch.setattr(acquisition, "ROUNDS", 1)
    monkeypatch.setattr(acquisition, "BANDIT_ROUNDS", 3)
    for comparison in (*acquisition.of_labels(0), *acquisition.of_rewards(0)):
        assert 0 < comparison.without <= 1
        assert 0 < comparison.having <= 1
