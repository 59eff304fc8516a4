"""The graphs of a bundle give the predictions of the calibrated network, and the answers of its policy."""

import dataclasses

import numpy as np
import pytest
import torch

import suffice
from suffice.budget import scores
from tests import builders
from tests.deploy import bundles
from tests.deploy.bundles import FEW, NESTED, NEXT

EVERY = [
    *FEW,
    NESTED,
    *[pytest.param(setting, marks=pytest.mark.slow) for setting in bundles.rest()],
]
SETTINGS = pytest.mark.parametrize("setting", EVERY, ids=str)

pytestmark = pytest.mark.filterwarnings(
    "ignore:.* ended at the edge of its range", "ignore:expected a mean cost of", "ignore:expected predictions"
)


def test_the_settings_contain_every_possible_pair_of_choices():
    every = set().union(*map(bundles.pairs, [*FEW, NESTED, *bundles.rest()]))
    few = {(i, value) for i, values in enumerate(bundles.CHOICES) for value in values}
    assert {(i, setting[i]) for setting in [*FEW, NESTED] for i in range(4)} == few
    assert (0, "binary", 2, "meanfield") in every
    assert (1, "lowrank", 3, False) in every
    assert (0, "regression", 1, "full") not in every


@SETTINGS
def test_every_graph_gives_the_prediction_of_its_exit_for_any_number_of_examples(setting, bundle):
    exported = bundle(setting)
    for count in (bundles.ROWS, 1):
        x = builders.inputs(count, seed=3)
        allowed = bundles.tolerance(exported.calibrated, x)
        results, wanted = list(exported.passes(x)), exported.calibrated(x)
        assert len(results) == len(wanted)
        for got, prediction in zip(results, wanted, strict=True):
            for name, values in bundles.fields(got).items():
                expected = getattr(prediction, name)
                assert values.dtype == expected.dtype == torch.float32
                atol = bundles.field_tolerance(name, expected, allowed)
                torch.testing.assert_close(values, expected, atol=atol, rtol=0)


@SETTINGS
@pytest.mark.numerics
def test_every_graph_but_the_last_gives_the_score_of_its_policy(setting, bundle):
    exported = bundle(setting)
    x, score = builders.inputs(bundles.ROWS, seed=4), scores.resolve(exported.policy.score)
    *results, last = exported.passes(x)
    assert "score" not in last
    for k, (got, prediction) in enumerate(zip(results, exported.calibrated(x), strict=False)):
        assert got["score"].dtype == np.float64
        expected = scores.evaluate(score, prediction, None, k)
        allowed = bundles.score_tolerance(exported.policy.score, prediction, bundles.tolerance(exported.calibrated, x))
        assert ((torch.from_numpy(got["score"]) - expected).abs() <= allowed).all()


@SETTINGS
def test_examples_leave_the_batch_where_run_stops_them_and_with_the_same_answers(setting, bundle):
    exported = bundle(setting)
    x = builders.inputs(60, seed=5)
    allowed = bundles.tolerance(exported.calibrated, x)
    policy = exported.policy
    thresholds = policy.thresholds if policy.alternative is None else policy.alternative  # without the coin
    coinless = dataclasses.replace(policy, thresholds=thresholds, alternative=None, portion=0.0)
    exit_, results = exported.exits(x, thresholds)
    answer = suffice.run(exported.calibrated, coinless, x)
    reach = bundles.score_tolerance(exported.policy.score, answer.prediction, allowed)[:, None]
    clear = ~((answer.scores - coinless.thresholds).abs() < reach).any(dim=1)
    assert clear.sum() >= 50
    assert torch.equal(torch.from_numpy(exit_)[clear], answer.exit[clear])
    if len(answer.scores[:, 0].unique()) > 1:  # one length of streaks, or one variance of all, stops all or none
        assert len(answer.exit.unique()) > 1
    reached = np.arange(60)
    for k, got in enumerate(results):
        stopped = exit_[reached] == k
        rows = torch.from_numpy(reached[stopped])
        for name, values in bundles.fields(got).items():
            both = clear[rows]
            expected = getattr(answer.prediction, name)[rows][both]
            atol = bundles.field_tolerance(name, getattr(answer.prediction, name), allowed)
            torch.testing.assert_close(values[torch.from_numpy(stopped)][both], expected, atol=atol, rtol=0)
        reached = reached[~stopped]


def test_the_tolerance_is_far_below_what_another_link_changes():
    product = bundles.calibrated_for(bundles.Setting("classification", "kronecker", "sampled", "product"))
    average = bundles.calibrated_for(bundles.Setting("classification", "kronecker", "plugin", "product"))
    x = builders.inputs(bundles.ROWS, seed=3)
    change = (product(x)[0].log_probs - average(x)[0].log_probs).abs().max()
    assert change > 20 * bundles.tolerance(product, x)


def test_a_nested_state_passes_from_graph_to_graph_leaf_by_leaf(bundle):
    exported = bundle(NESTED)
    stages = exported.manifest["stages"]
    names = [[value["name"] for value in stage["inputs"]] for stage in stages]
    assert names[0] == ["input"]
    for k, stage in enumerate(stages[:-1]):
        sent = [value["name"].removeprefix(NEXT) for value in stage["outputs"] if value["name"].startswith(NEXT)]
        assert sent == names[k + 1]
    assert sum(name.startswith("state.") for name in names[1]) == 3
    assert sum(name.startswith("state.") for name in names[2]) == 4
    assert {value["dtype"] for value in stages[2]["inputs"]} >= {"int64", "float32"}


def test_patience_counts_the_exits_in_a_row(bundle):
    exported = bundle(NESTED)
    assert exported.policy.score == "patience"
    x = builders.inputs(40, seed=6)
    for got, prediction in zip(list(exported.passes(x))[:-1], exported.calibrated(x), strict=False):
        margins = prediction.margin > 2 * bundles.tolerance(exported.calibrated, x)
        assert margins.sum() >= 35
        assert torch.equal(torch.from_numpy(got["score"])[margins].long(), prediction.agreeing[margins])
        assert torch.equal(torch.from_numpy(got[f"{NEXT}streak.label"])[margins], prediction.label[margins])


def test_two_exports_are_the_same_bytes(bundle, tmp_path):
    setting = next(iter(FEW))
    exported = bundle(setting)
    suffice.export(exported.calibrated, tmp_path / "again", policy=exported.policy, example=builders.inputs(5, seed=8))
    for file in sorted(exported.folder.iterdir()):
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes(), file.name
