import math

import pytest
import torch

from suffice.variation.teachers.masks import Source, Units, draw, nearest

CPU = torch.device("cpu")


def factors(rate, count, *shape, seed=0, dtype=torch.float32):
    source = Source(torch.Generator().manual_seed(seed), CPU)
    return draw([Units(rate, shape, dtype, CPU)], count, source)[0]


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.2, 0.5, 0.9])
def test_units_are_dropped_at_the_rate_and_the_others_scaled_up(rate):
    values = factors(rate, 10, 200, 50)
    assert values.shape == (10, 200, 50)
    half_a_level = 0.5 / (1 << 16)  # the rate is the nearest of 65,536
    assert values.unique().tolist() == pytest.approx([0, 1 / (1 - rate)], rel=half_a_level / (1 - rate - half_a_level))
    assert abs((values == 0).double().mean() - rate) < 5 * math.sqrt(rate * (1 - rate) / 100_000)


def test_units_rows_and_passes_are_independent():
    values = (factors(0.3, 40, 60, 50) == 0).double() - 0.3
    bound = 5 * 0.21 / math.sqrt(100_000)
    for dim in (0, 1, 2):
        for lag in (1, 3, 4):
            assert abs((values * values.roll(lag, dims=dim)).mean()) < bound


def test_the_same_seed_gives_the_same_bytes_and_another_seed_different_ones():
    assert torch.equal(factors(0.5, 3, 4, 5), factors(0.5, 3, 4, 5))
    assert not torch.equal(factors(0.5, 3, 4, 5), factors(0.5, 3, 4, 5, seed=1))


def test_a_source_continues_its_sequence():
    source = Source(torch.Generator().manual_seed(0), CPU)
    assert not torch.equal(source.words(99), source.words(99))


def test_the_type_is_that_of_the_units():
    assert factors(0.5, 2, 3, dtype=torch.bfloat16).dtype == torch.bfloat16
    assert factors(0.25, 2, 3, dtype=torch.float64).max() == 4 / 3


@pytest.mark.parametrize("rate", [1e-9, 0.1, 0.5, 1 - 1e-9])
def test_the_nearest_rate_is_within_half_a_step_and_never_zero_or_one(rate):
    assert 0 < nearest(rate) < 1
    assert abs(nearest(rate) - rate) <= 1 / 65536


def test_deterministic_passes_come_first_and_do_not_change_the_others():
    source = Source(torch.Generator().manual_seed(0), CPU)
    values = draw([Units(0.5, (4, 5), torch.float32, CPU)], 3, source, ones=1)[0]
    assert (values[0] == 1).all()
    assert torch.equal(values[1:], factors(0.5, 3, 4, 5))
