import pytest
import torch

from suffice.variation.learning.objective import Objective, estimate_bounds
from suffice.variation.learning.rows import Rows
from suffice.variation.learning.target import Target
from tests.variation.fits import seeded


def test_the_range_is_the_intersection_of_those_of_labels_and_fitted_values():
    narrow, wide = torch.tensor([0.04, 0.25]), torch.tensor([0.01, 0.36])
    assert (
        estimate_bounds(narrow, wide, Target("std"))
        == estimate_bounds(wide, narrow, Target("std"))
        == pytest.approx((0.2, 0.5))
    )
    assert estimate_bounds(narrow, wide, Target("disagreement")) == pytest.approx((0.04, 0.25))


def test_an_objective_fits_the_same_layers_alike_whatever_was_fitted_before():
    parts = [Rows(torch.randn(200, 5, generator=seeded(i)), (2, 3), torch.rand(200, 2), 4) for i in range(2)]
    objective = Objective(*parts, unit=0.5, target=Target("std"), hidden=(8,), epochs=3, seed=1)
    alone = objective.fit([])
    objective.fit([0])
    assert torch.equal(objective.fit([]).weights[0], alone.weights[0])
