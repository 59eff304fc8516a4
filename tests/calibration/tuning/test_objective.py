import math

import pytest
import torch

from suffice.calibration.exits import CalibratedExit
from suffice.calibration.tuning.objective import Cache, Objective
from tests.calibration.tuning.cached import setting


def test_the_largest_operation_is_finite_on_the_cpu_and_infinite_elsewhere():
    exits, caches, labels, weights = setting()
    sampled = len(labels) * 16 * 4  # each example, sample and class
    assert Objective(caches, labels, weights).largest_operation(exits) == sampled
    elsewhere = [Cache(cache.logits.to("meta"), None) for cache in caches]
    assert Objective(elsewhere, labels, weights).largest_operation(exits) == math.inf


def test_it_counts_the_logits_of_exits_without_samples():
    cache = Cache(torch.zeros(7, 5), None)
    assert Objective([cache], torch.zeros(7)).largest_operation([CalibratedExit(1.0, None)]) == 35


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": [1.0, 2.0]}, "caches, weights and classifiers of equally many exits"),
        ({"classifiers": [torch.zeros(5, 3)] * 2}, "caches, weights and classifiers of equally many exits"),
        ({"targets": torch.zeros(6)}, r"expected one target per example, got 6 for \[7\] examples"),
    ],
)
def test_numbers_of_exits_and_examples_that_differ_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Objective(**{"caches": [Cache(torch.zeros(7, 5), None)], "targets": torch.zeros(7), **changes})
