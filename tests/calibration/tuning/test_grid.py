import math

import numpy as np
import pytest
import torch

from suffice import calibrate
from suffice.calibration.tuning import grid, validation
from tests import builders
from tests.calibration.tuning.cached import moved, objective, setting, tuned


@pytest.mark.parametrize("ensembled", [True, False])
def test_each_exit_takes_the_best_point_given_the_exits_before_it(ensembled):
    exits, caches, labels, weights = setting(seed=3)
    weights = weights if ensembled else None
    results = tuned(grid.tune, exits, caches, labels, weights)
    chosen = []
    for k, (exit_, result) in enumerate(zip(exits, results, strict=True)):
        candidates = [moved(exit_, t, v) for v in grid.PRIOR_VARIANCES for t in grid.TEMPERATURES]
        values = [objective([*chosen, c], caches[: k + 1], labels, weights, math.inf) for c in candidates]
        chosen.append(candidates[int(np.argmin(values))])
        assert result.temperature == chosen[-1].temperature
        assert result.prior_precision == chosen[-1].prior_precision
        assert torch.equal(result.offsets.values, chosen[-1].offsets.values)
    assert len({exit_.temperature for exit_ in results}) > 1


@pytest.mark.parametrize("values", [grid.TEMPERATURES, grid.PRIOR_VARIANCES])
def test_no_point_is_tried_twice_and_what_an_exit_comes_with_is_one(values):
    assert list(values) == sorted(set(values))
    assert 1.0 in values


def test_it_is_not_better_than_the_joint_minimum():
    exits, caches, labels, weights = setting(seed=3)
    greedy, joint = (
        objective(tuned(tune, exits, caches, labels, weights), caches, labels, weights)
        for tune in (grid.tune, validation.tune)
    )
    assert joint <= greedy + 1e-6


def test_without_temperature_only_the_prior_moves():
    exits, *rest = setting()
    results = tuned(grid.tune, exits, *rest, temperature=False)
    assert [exit_.temperature for exit_ in results] == [1.0] * 3
    assert all(any(exit_.prior_precision == 1 / v for v in grid.PRIOR_VARIANCES) for exit_ in results)


def test_without_a_posterior_only_the_temperature_moves():
    logits = builders.inputs(2000, 5) * 3
    loader = builders.batched(logits, builders.sampled_labels(logits, 1.7), 1000)
    calibrated = calibrate(builders.identity_network(5), [], loader, structure=None, tuning="grid")
    assert calibrated.exits[0].temperature in (1.5, 1.7, 2.0)
    assert calibrated.exits[0].prior_precision is None


def test_a_point_on_the_edge_of_the_grid_is_a_warning_that_names_it():
    logits = builders.inputs(200, 4)
    loader = builders.batched(logits, logits.argmax(dim=1))
    with pytest.warns(UserWarning, match="ended at the edge of its range") as seen:
        calibrate(builders.identity_network(4), loader, loader, tuning="grid")
    messages = sorted(str(warning.message) for warning in seen)
    assert messages == [
        "the prior variance of exit 0 ended at the edge of its range, 0.5",
        "the temperature of exit 0 ended at the edge of its range, 0.3; the predictions are underconfident "
        "by more than this factor",
    ]
    assert seen[0].filename == __file__


def test_the_upper_edge_of_the_temperatures_is_warned_of_as_well():
    logits = 40 * builders.inputs(200, 4)
    loader = builders.batched(logits, builders.sampled_labels(logits, 80.0))
    with pytest.warns(UserWarning, match="the temperature of exit 0 ended at the edge of its range, 3"):
        calibrate(builders.identity_network(4), loader, loader, tuning="grid", structure=None)
