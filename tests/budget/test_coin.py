import pytest
import torch
from scipy.stats import kstest

from suffice.budget.coin import hash_to_unit


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.uint8, torch.int64, torch.bool])
def test_an_example_has_the_same_number_in_any_batch_and_order(dtype):
    x = (100 * torch.rand(40, 5, 3, generator=torch.Generator().manual_seed(0))).to(dtype)
    x = x > 50 if dtype == torch.bool else x
    numbers, order = hash_to_unit(x), torch.randperm(40)
    assert torch.equal(hash_to_unit(x[order]), numbers[order])
    assert torch.equal(torch.cat([hash_to_unit(part) for part in x.split(7)]), numbers)
    assert ((numbers >= 0) & (numbers < 1)).all()


def test_numbers_are_uniform_even_over_inputs_that_hardly_differ():
    grid = torch.arange(20_000).float()[:, None] / 16
    for x in (grid, grid.expand(-1, 3).contiguous(), torch.randn(20_000, 4), torch.arange(20_000)[:, None]):
        assert kstest(hash_to_unit(x).numpy(), "uniform").pvalue > 1e-4


def test_neighbors_in_a_batch_are_not_correlated():
    numbers = hash_to_unit(torch.arange(20_000)[:, None])
    correlation = torch.corrcoef(torch.stack([numbers[1:], numbers[:-1]]))[0, 1]
    assert abs(float(correlation)) < 0.03


def test_every_leaf_of_a_nest_and_every_place_counts():
    a, b = torch.rand(10, 2), torch.arange(10)
    assert not torch.equal(hash_to_unit({"a": a, "b": b}), hash_to_unit({"a": a, "b": b.flip(0)}))
    assert not torch.equal(hash_to_unit((a, a + 1)), hash_to_unit((a + 1, a)))
    assert not torch.equal(hash_to_unit(a), hash_to_unit(a.flip(1)))
    assert torch.equal(hash_to_unit({"a": a, "b": b, "name": "x"}), hash_to_unit({"a": a, "b": b, "name": "y"}))


def test_the_numbers_are_the_same_on_every_machine():
    """They are compared with the same computation on Python integers."""
    rows = [[1, 2, *range(-9, 9)], [0] * 20]
    assert hash_to_unit(torch.tensor(rows)).tolist() == [reference(row) for row in rows]


def reference(words):
    mask = (1 << 64) - 1

    def mixed(z):
        z = (z + 0x9E3779B97F4A7C15) & mask
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return z ^ (z >> 31)

    total = sum(word * (mixed(index) | 1) for index, word in enumerate(words)) & mask
    return (mixed(total) >> 11) / 2**53
