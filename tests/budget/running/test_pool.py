import torch

from suffice.budget import walk
from suffice.budget.running.pool import Pool
from tests import builders

CALIBRATED = builders.untuned(builders.network(), builders.inputs(20))


def rows(state, start):
    return walk.begin(CALIBRATED, state, start=start)


def test_rows_are_taken_in_the_order_in_which_they_were_added():
    pool, x = Pool(), builders.inputs(20)
    for start in (0, 8, 12):
        pool.add(rows(x[start : start + 6], start))
    first = pool.take_full(10)
    assert first.positions.tolist() == [0, 1, 2, 3, 4, 5, 8, 9, 10, 11]
    assert torch.equal(first.state, x[first.positions])
    assert pool.take_full(10) is None
    assert pool.take_full(8).positions.tolist() == [12, 13, 12, 13, 14, 15, 16, 17]


def test_rows_of_other_shapes_types_or_plain_values_are_not_joined():
    pool, x = Pool(), builders.inputs(2)
    alike = [x, {"x": x, "side": 2}, (x, 3)]
    apart = [x[:, :2], x.double(), {"x": x, "side": 3}, {"y": x, "side": 2}, (x, 3.0), [x, 3], (x, None)]
    for start, state in enumerate([*alike, *apart, *alike]):
        pool.add(rows(state, start))
    taken = [pool.take_full(4) for _ in alike]
    assert sorted(int(part.positions[0]) for part in taken) == [0, 1, 2]
    assert pool.take_full(4) is None
    assert sum(pool.take_full(2) is not None for _ in range(20)) == len(apart)


def test_only_groups_with_an_early_position_are_due():
    pool, x = Pool(), builders.inputs(6)
    pool.add(rows(x[:3], 10))
    pool.add(rows(x[:3, :2], 13))
    pool.add(rows(x[3:], 16))
    assert pool.take_due(4, before=10) is None
    assert pool.take_due(4, before=11).positions.tolist() == [10, 11, 12, 16]
    assert pool.take_due(4, before=11) is None
    assert pool.take_due(4, before=18).positions.tolist() in ([13, 14, 15], [17, 18])


def test_a_plain_value_without_a_hash_is_like_no_other():
    pool, x = Pool(), builders.inputs(2)
    for start in range(2):
        pool.add(rows({"x": x, "seen": {1}}, start))
    assert pool.take_full(3) is None
    assert [len(pool.take_due(9, before=5)) for _ in range(2)] == [2, 2]
