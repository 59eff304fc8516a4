import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from suffice_runtime.serving.statistics import SECONDS, Buckets

EDGES = (1.0, 2.0, 5.0)


@given(st.lists(st.floats(0, 10), max_size=50), st.floats(0.01, 1))
def test_a_histogram_counts_values_up_to_each_edge(values, share):
    buckets = Buckets(EDGES)
    for value in values:
        buckets.add(value)
    histogram = buckets.snapshot()
    through = np.cumsum(histogram.counts)
    assert through.tolist() == [sum(value <= edge for value in values) for edge in (*EDGES, math.inf)]
    assert (histogram.count, histogram.total) == (len(values), sum(values))
    if values:
        exact = np.quantile(values, share, method="inverted_cdf")
        assert histogram.quantile(share) == next(edge for edge in (*EDGES, math.inf) if exact <= edge)
    else:
        assert math.isnan(histogram.mean)
        assert math.isnan(histogram.quantile(share))


def test_a_snapshot_does_not_change():
    buckets = Buckets(EDGES)
    before = buckets.snapshot()
    buckets.add(1.5)
    assert (before.counts, buckets.snapshot().counts) == ((0, 0, 0, 0), (0, 1, 0, 0))


def test_edges_of_seconds_rise_from_a_tenth_of_a_millisecond_to_a_minute():
    assert (SECONDS[0], SECONDS[-1]) == (1e-4, 60.0)
    assert list(SECONDS) == sorted(set(SECONDS))
