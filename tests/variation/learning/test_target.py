import pytest
import torch

from suffice.variation.learning import agreement
from suffice.variation.learning.target import Target


def test_powers_are_those_that_few_passes_estimate_without_bias():
    assert [Target(name).power for name in ("std", "std_mean", "std_3", "disagreement")] == [2, 2, 2, 1]


@pytest.mark.parametrize("name", ["mutual_information", "stdev", ""])
def test_a_target_without_such_a_power_is_refused(name):
    with pytest.raises(ValueError, match=rf"'std', .* or 'disagreement', got '{name}'; .* biased"):
        Target(name)


def test_only_deviations_are_corrected_for_their_bias():
    spread = torch.rand(5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(Target("std_mean").unbiased(spread, 4), agreement.unbiased(spread, 4))
    assert torch.equal(Target("disagreement").unbiased(spread, 4), spread)
