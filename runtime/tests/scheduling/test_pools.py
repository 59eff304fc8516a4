import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fake_network import POLICY
from suffice_runtime.running.walk import InFlight
from suffice_runtime.scheduling.pools import Batch, Part, Pool
from suffice_runtime.scheduling.requests import Request, Ticket
from suffice_runtime.scheduling.rules.fairness import CLIENTS, Order


def part(number, examples, tag, since=0.0, deadline=np.inf, waited=0.0):
    request = Request(Ticket(number, examples), POLICY, since, tag, deadline, 2, None)
    x = np.stack([np.full(examples, number), np.arange(examples)], axis=1)
    return Part(request, InFlight([x], np.arange(examples), None), since, waited)


def order(parts):
    return [(one.request.ticket.number, int(position)) for one in parts for position in one.rows.positions]


def test_examples_of_a_large_request_share_with_small_ones_that_come_later():
    fair, pool = Order(), Pool(0, 2)
    pool.add(part(0, 100, fair.enter(100, None)), 0.0)
    first = pool.take(10, 0.0)
    fair.run(first[-1].tag(9))
    for number in (1, 2):
        pool.add(part(number, 1, fair.enter(1, None)), 0.0)
    assert order(pool.take(4, 0.0)) == [(0, 10), (0, 11), (1, 0), (2, 0)]
    assert len(pool) == 88


def test_two_large_requests_take_turns():
    pool = Pool(0, 2)
    for number in (0, 1):
        pool.add(part(number, 50, 1.0), 0.0)
    counts = {one.request.ticket.number: len(one) for one in pool.take(20, 0.0)}
    assert sorted(counts) == [0, 1]
    assert abs(counts[0] - counts[1]) <= 1


def test_requests_of_one_client_follow_one_another():
    fair, pool = Order(), Pool(0, 2)
    for number, client in ((0, "a"), (1, "a"), (2, "a"), (3, "b")):
        pool.add(part(number, 2, fair.enter(2, client)), 0.0)
    assert [number for number, _ in order(pool.take(4, 0.0))] == [0, 0, 3, 3]


def test_clients_without_waiting_examples_are_forgotten():
    fair = Order()
    for i in range(CLIENTS + 1):
        fair.run(fair.enter(1, f"client {i}"))
    assert len(fair._last) <= 2


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(0, 5)), min_size=1, max_size=12),
    st.lists(st.integers(1, 20), min_size=1, max_size=9),
    st.sets(st.integers(0, 11)),
)
def test_every_example_is_taken_or_removed_once_and_those_of_a_request_in_order(requests, sizes, unwanted):
    pool = Pool(0, 2)
    added = [part(number, examples, float(tag)) for number, (examples, tag) in enumerate(requests)]
    for one in added:
        pool.add(one, 0.0)
    taken = [one for size in sizes for one in pool.take(size, 0.0)]
    left = sum(examples for examples, _ in requests) - sum(map(len, taken))
    assert left == len(pool) == max(0, sum(examples for examples, _ in requests) - sum(sizes))
    removed = pool.remove([one.request for one in added if one.request.ticket.number in unwanted])
    rest = pool.take(10**6, 0.0)
    assert {one.request.ticket.number for one in removed} <= unwanted
    assert not {one.request.ticket.number for one in rest} & unwanted
    for number, (examples, _) in enumerate(requests):
        parts = [one for one in (*taken, *removed, *rest) if one.request.ticket.number == number]
        assert np.concatenate([one.rows.positions for one in parts]).tolist() == list(range(examples))
        assert all((one.rows.carried[0] == [[number, i] for i in one.rows.positions]).all() for one in parts)
    assert len(pool) == len(pool._keys) == 0


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 5)), min_size=1, max_size=12), st.integers(1, 20))
def test_examples_run_in_the_order_of_their_tags(requests, size):
    pool = Pool(0, 2)
    for number, (examples, tag) in enumerate(requests):
        pool.add(part(number, examples, float(tag)), 0.0)
    tags = [one.tag(i) for one in pool.take(size, 0.0) for i in range(len(one))]
    rest = [one.tag(i) for one in pool.take(10**6, 0.0) for i in range(len(one))]
    assert max(tags) <= min(rest, default=np.inf)


def test_an_example_is_due_when_it_has_waited_or_its_deadline_is_near():
    pool = Pool(0, 2)
    pool.add(part(0, 1, 1.0, since=1.0), 1.0)
    assert pool.due(0.5, 0.1) == 1.5
    pool.add(part(1, 1, 1.0, since=1.1, waited=0.3), 1.1)
    assert pool.due(0.5, 0.1) == pytest.approx(1.3)
    pool.add(part(2, 1, 1.0, since=1.2, deadline=1.35), 1.2)
    assert pool.due(0.5, 0.1) == pytest.approx(1.25)
    assert pool.oldest == 1.0


@given(st.lists(st.integers(1, 9), min_size=1, max_size=9).filter(lambda sizes: sum(sizes) > 1))
def test_halves_of_a_batch_have_its_examples_in_order(sizes):
    parts = tuple(part(number, size, 1.0) for number, size in enumerate(sizes))
    batch = Batch(0, 0, parts, sum(sizes), 0.0)
    first, second = batch.halves()
    assert order([*first, *second]) == order(parts)
    assert sum(map(len, first)) == len(batch) // 2


def test_a_padded_batch_repeats_its_last_row():
    batch = Batch(0, 0, (part(0, 2, 1.0), part(1, 1, 1.0)), 4, 0.0)
    (array,) = batch.padded()
    assert array.tolist() == [[0, 0], [0, 1], [1, 0], [1, 0]]
