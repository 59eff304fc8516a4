"""Costs by the number of tokens are those that the export verified."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from suffice.deploy.graphs.inputs import _quadratic
from suffice_runtime.bundle.costs import Costs

counts = st.integers(0, 10**12)


@given(
    polynomials=st.lists(st.tuples(counts, counts, counts), min_size=1, max_size=4),
    lengths=st.lists(st.integers(1, 10_000), min_size=3, max_size=3, unique=True),
    tokens=st.integers(0, 100_000),
)
def test_costs_are_the_quadratic_polynomial_at_any_length(polynomials, lengths, tokens):
    def macs(length):
        return tuple(a * length**2 + b * length + c for a, b, c in polynomials)

    costs = Costs(macs(lengths[0]), tuple(lengths), tuple(map(macs, lengths)), lengths[0])
    if max(macs(tokens)) > np.iinfo(np.int64).max:
        assert costs.at(tokens) is None
        return
    assert costs.at(tokens) == macs(tokens)
    columns = zip(*map(macs, lengths), strict=True)
    assert list(costs.at(tokens)) == [_quadratic(lengths, column, tokens) for column in columns]
