import pytest
import torch

import suffice
from suffice import cost, evaluation
from suffice.reproduce.early_exit.text import measurements, minilm
from suffice.reproduce.early_exit.text.minilm import Recipe
from suffice.reproduce.early_exit.text.subjects import inputs
from suffice.training import AdamWConfig
from suffice.utils.progress import quiet
from tests.reproduce.early_exit.text import builders

pytestmark = pytest.mark.filterwarnings("ignore:the .* ended at the edge", "ignore:no level guarantees")


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    recipe = Recipe("", builders.lstm, 2, optimizer=AdamWConfig(1e-2, warmup=0), bfloat16=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(minilm, "RECIPES", {"joint": recipe})
        return minilm.train_and_cache("joint", 0, builders.requests(), tmp_path_factory.mktemp("out"), quiet)[1]


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(measurements, "TIMED", {1: 2, 4: 2})
    monkeypatch.setattr(measurements, "REPEATS", 1)
    monkeypatch.setattr(measurements, "FRACTIONS", (0.7, 1.0))


def test_the_network_gives_the_answers_of_its_cached_features(subject):
    on_features = evaluation.predict(subject.study.calibrated()[0], subject.study.test)
    for k, prediction in enumerate(on_features.predictions):
        whole = torch.cat([subject.calibrated(inputs(b))[k].log_probs for b in subject.requests.batches("test")])
        assert torch.allclose(whole, prediction.log_probs, atol=1e-5)


def test_the_plain_cost_is_that_of_the_padded_batches(subject):
    batches = [inputs(batch) for batch in subject.requests.batches("test")]
    total = sum(len(batch["input_ids"]) * cost.macs(subject.plain, batch) for batch in batches)
    assert subject.plain_macs == pytest.approx(total / len(subject.requests.test))


def test_by_exit_has_the_noise_floor_and_the_wrong_answers_of_the_last_exit(subject):
    run = measurements.by_exit(subject, structure=None, temperature=False, ensemble=False)
    wrong = run["wrong"].split()
    assert len(run["exits"]) == 2
    assert 1 - len(wrong) / 45 == pytest.approx(run["exits"][-1]["accuracy"])
    assert all(0 < at["floor"] < 1 for at in run["exits"])


def test_a_budget_of_all_stops_nothing_and_a_smaller_one_saves_what_it_promises(subject, short):
    run = measurements.budgets(subject)
    part, whole = run["rows"]
    assert whole["shares"] == [0, 1]
    assert whole["speedup"] <= 1 < part["speedup"]  # exits cost a little
    assert part["macs"] / whole["macs"] == pytest.approx(0.7, abs=0.1)
    assert len(part["wrong"].split()) == round(45 * (1 - part["accuracy"]))
    for row in (run["plain"], *run["rows"]):
        assert row["milliseconds"].keys() == {1, 4}
        assert min(row["milliseconds"].values()) > 0
    last = evaluation.predict(subject.study.calibrated()[0], subject.study.test)
    assert whole["accuracy"] == pytest.approx(evaluation.per_exit(last)[-1]["accuracy"])


def test_a_budget_that_does_not_pay_for_the_first_exit_is_left_out(subject, short, monkeypatch):
    monkeypatch.setattr(measurements, "FRACTIONS", (0.01, 1.0))
    assert [row["fraction"] for row in measurements.budgets(subject)["rows"]] == [1.0]


def test_a_guarantee_counts_what_is_lost_to_the_last_exit(subject, monkeypatch):
    monkeypatch.setattr(measurements, "GUARANTEES", (("agreement", 0.6), ("accuracy", 0.6)))
    agreement, accuracy = measurements.guarantees(subject)["rows"]
    for row in (agreement, accuracy):
        assert row["shares"][0] > 0  # some stop early, so that there is something to count
    policy = suffice.control_risk(subject.calibrated, subject.requests.batches("held_out"), 0.6, 0.95, "agreement")
    answered = measurements.answers(subject.calibrated, policy, subject.requests.batches("test"))
    last = torch.cat([subject.calibrated(inputs(b))[-1].label for b in subject.requests.batches("test")])
    assert agreement["lost"] == pytest.approx(float((answered.label != last).double().mean()))
    assert accuracy["lost"] <= agreement["lost"]


def test_every_score_is_compared_out_of_scope(subject):
    run = measurements.out_of_scope(subject)
    assert {"max-probability", "entropy, calibrated", "epistemic", "density"} <= run.keys()
    assert all(0 <= values["auroc"] <= 1 for values in run.values())


def test_the_main_network_has_every_row_and_the_others_a_few():
    few, every = measurements.measures(whole=False), measurements.measures(whole=True)
    assert {*evaluation.ABLATION, "default", "added", "scores"} <= every.keys()
    assert {*measurements.ROWS, "budgets", "guarantees", "out of scope"} <= few.keys() < every.keys()
