import pytest
import torch
from scipy import stats

from suffice import Regression
from suffice.prediction import concatenate


def regression(n=6, outputs=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mean, epistemic, noise = torch.randn(3, n, outputs, generator=generator, dtype=torch.float64)
    return Regression(mean, epistemic.exp(), noise.exp())


GIVEN = regression()


def test_the_variance_is_that_of_the_mean_and_the_noise_together():
    torch.testing.assert_close(GIVEN.variance, GIVEN.epistemic_variance + GIVEN.noise_variance)
    torch.testing.assert_close(GIVEN.std.square(), GIVEN.variance)


def test_the_log_density_is_scipys_summed_over_the_outputs():
    targets = regression(seed=1).mean
    expected = stats.norm(GIVEN.mean, GIVEN.std).logpdf(targets).sum(axis=1)
    torch.testing.assert_close(GIVEN.log_density(targets), torch.from_numpy(expected))


def test_targets_of_a_single_output_may_be_a_vector_or_a_column():
    single = regression(outputs=1)
    targets = torch.arange(6.0, dtype=torch.float64)
    assert torch.equal(single.log_density(targets), single.log_density(targets[:, None]))
    assert single.log_density(targets).shape == (6,)


@pytest.mark.parametrize("level", [0.5, 0.9, 0.999])
def test_an_interval_holds_its_share_of_the_gaussian(level):
    low, high = stats.norm(GIVEN.mean, GIVEN.std).interval(level)
    for got, expected in zip(GIVEN.interval(level), (low, high), strict=True):
        torch.testing.assert_close(got, torch.from_numpy(expected))


@pytest.mark.parametrize("level", [0, 1, 95])
def test_a_level_that_is_not_a_probability_is_refused(level):
    with pytest.raises(ValueError, match=f"level between 0 and 1, got {level}; 0.95 is 95 %"):
        GIVEN.interval(level)


def test_taking_and_joining_examples_keeps_every_field_and_the_members():
    whole = Regression(GIVEN.mean, GIVEN.epistemic_variance, GIVEN.noise_variance, (regression(seed=2), GIVEN))
    index = torch.tensor([4, 0])
    taken = whole.take(index)
    assert len(taken) == 2
    for before, after in [(whole, taken), *zip(whole.members, taken.members, strict=True)]:
        for field in ("mean", "epistemic_variance", "noise_variance"):
            assert torch.equal(getattr(after, field), getattr(before, field)[index])
    again = concatenate([whole.take(torch.arange(4)), whole.take(torch.arange(4, 6))])
    assert isinstance(again, Regression)
    assert torch.equal(again.members[0].noise_variance, whole.members[0].noise_variance)
    assert torch.equal(again.epistemic_variance, whole.epistemic_variance)
