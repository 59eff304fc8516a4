from fractions import Fraction

import pytest

import bundles
from suffice_runtime.bundle.costs import Costs


def text_costs(**changes):
    entries = {"macs": bundles.COSTS, "length": 5, "lengths": (2, 5, 11)}
    entries |= changes
    table = tuple(tuple(bundles.text_costs(tokens)) for tokens in entries["lengths"])
    return Costs(entries["macs"], entries["lengths"], table, entries["length"])


@pytest.mark.parametrize("tokens", [1, 2, 3, 4, 5, 6, 11, 12, 300, 10_000])
def test_three_lengths_give_the_costs_of_every_length(tokens):
    assert text_costs().at(tokens) == tuple(bundles.text_costs(tokens))


def test_large_counts_are_exact():
    def exact(tokens):
        return (12 * 10**9 * tokens**2 + 7 * 10**10 * tokens + 1,)

    costs = Costs(exact(9), (4, 7, 9), (exact(4), exact(7), exact(9)), 9)
    assert costs.at(8191) == exact(8191)
    assert float(Fraction(*exact(8191))) != exact(8191)[0]  # which floats would not be


@pytest.mark.parametrize("tokens", [2**31, 2**40])  # no examples can have any number of tokens
def test_counts_beyond_int64_are_not_known(tokens):
    assert bundles.text_costs(tokens)[-1] > 2**63
    assert text_costs().at(tokens) is None


def test_without_a_table_only_the_length_of_the_example_has_costs():
    costs = Costs((1, 2), length=7)
    assert costs.at(7) == (1, 2)
    assert costs.at(8) is None
    assert Costs((1, 2)).at(None) == (1, 2)
