import math
from dataclasses import replace

import pytest
import torch

import suffice
from suffice import allocate, run
from tests import builders
from tests.budget.profiles import planted

NET = builders.network()
X = builders.inputs(400)


def test_a_policy_shows_costs_and_what_stops_at_each_exit():
    calibrated = builders.untuned(NET, X)
    policy = allocate(calibrated, [X], 0.6)
    first, *rules = repr(policy).split("\n")
    expected = f"{policy.expected:,.0f} multiply-adds"
    assert first == f"Policy(confidence, budget {policy.budget:,.0f} multiply-adds, expected {expected})"
    assert rules[0] == (
        f"  exit 0: confidence from {float(policy.thresholds[0].sigmoid()):.4g}; "
        f"{float(policy.shares[0]):.1%} of the validation data"
    )
    assert rules[-1] == f"  exit 2: what is left; {float(policy.shares[-1]):.1%} of the validation data"


def test_a_mixed_policy_shows_both_rules_of_an_exit():
    calibrated = builders.untuned(NET, X)
    policy = replace(
        allocate(calibrated, [X], 0.6, score="patience"),
        thresholds=torch.tensor([2.0, torch.inf]),
        alternative=torch.tensor([1.0, -torch.inf]),
        portion=0.25,
    )
    rules = [line.split(";")[0] for line in repr(policy).split("\n")[1:]]
    assert rules == [
        "  exit 0: scores from 1 for 25.0% of the inputs, else scores from 2",
        "  exit 1: everything for 25.0% of the inputs, else nothing",
        "  exit 2: what is left",
    ]


def test_a_profile_travels_with_the_policy(tmp_path):
    calibrated = builders.untuned(NET, X)
    policy = allocate(calibrated, [X], 0.05, unit="ms", profile=planted([1.0, 2.0, 3.0], batch_size=64))
    suffice.save(policy, tmp_path / "policy")
    again = suffice.load(tmp_path / "policy")
    assert again.unit == "ms"
    assert again.profile.sizes == (1, 64)
    assert again.profile.per_example(policy.shares) == pytest.approx(policy.expected)
    assert torch.equal(run(calibrated, again, X).exit, run(calibrated, policy, X).exit)


def test_a_mixed_policy_and_a_guarantee_are_restored_as_they_were(tmp_path):
    calibrated = builders.untuned(NET, X)
    mixed = allocate(calibrated, [X], 0.6, score="patience")
    suffice.save(mixed, tmp_path / "mixed")
    again = suffice.load(tmp_path / "mixed")
    assert torch.equal(again.alternative, mixed.alternative)
    assert again.portion == mixed.portion
    labels = calibrated(X)[-1].label
    promised = suffice.control_risk(calibrated, builders.batched(X, labels), 0.2)
    suffice.save(promised, tmp_path / "promised")
    again = suffice.load(tmp_path / "promised")
    assert again.promise == promised.promise
    assert math.isnan(again.budget)
