"""Simulated streams: throughput, waiting and refusals at shares and multiples of the capacity."""

import numpy as np
import pytest

from fake_network import EXITS, Server, affine, network, rows, stopping_at
from suffice_runtime.scheduling.options import Options
from suffice_runtime.scheduling.scheduler import Scheduler

NETWORK = network()

FIXED, EACH, SIZE = 0.04, 0.002, 16
"""Seconds of a run, and of each of its examples; a batch of 16 takes 72 ms, 16 runs of one example 672 ms."""

REACHING = (1.0, 0.5, 0.25)
"""Shares of the examples of `rows` that reach each stage."""

CAPACITY = SIZE / ((FIXED + EACH * SIZE) * sum(REACHING))
"""Examples per second with full batches at every stage, about 127."""

ALONE = 1 / ((FIXED + EACH) * sum(REACHING))
"""Examples per second if each runs alone, about 14."""

WAIT = 0.05

ROOM = 150


def poisson(rate, seconds, seed=0, shares=(0.5, 0.25, 0.25), **terms):
    """Return arrivals of single examples."""
    generator = np.random.default_rng(seed)
    times = np.cumsum(generator.exponential(1 / rate, size=int(rate * seconds)))
    return [(time, x[None], terms) for time, x in zip(times, rows(len(times), seed, shares), strict=True)]


def all_to_the_end(rate, seconds):
    return [(time, stopping_at([EXITS - 1]), {}) for time, _, _ in poisson(rate, seconds)]


def served(arrivals):
    one = Scheduler(NETWORK, Options(wait_ms=1000 * WAIT, max_rows=ROOM, sizes=(1, 2, 4, 8, SIZE)))
    server = Server(one, NETWORK, affine(FIXED, EACH))
    server.serve(arrivals)
    assert len(server.answered) + len(server.refused) == len(arrivals)
    assert one.load().rows == 0
    return server


def seconds(server):
    return np.array([outcome.seconds for _, outcome in server.answered.values()])


def throughput(server):
    """Return the answers per second in the middle half of a run."""
    times = np.sort([time for time, _ in server.answered.values()])
    first, last = times[-1] * 0.25, times[-1] * 0.75
    return ((times >= first) & (times < last)).sum() / (last - first)


@pytest.mark.parametrize("load", [0.5, 0.8])
def test_below_capacity_nothing_is_refused_and_everything_is_answered_soon(load):
    server = served(poisson(load * CAPACITY, 4))
    assert not server.refused
    # Per stage: the run that is going on, at most one of each other stage before this one, its own, and the wait.
    longest = EXITS * (EXITS + 1) * (FIXED + EACH * SIZE) + WAIT
    assert seconds(server).max() < longest
    assert throughput(server) > 3 * ALONE


def test_at_twice_the_capacity_batches_are_full_and_the_rest_is_refused():
    server = served(poisson(2 * CAPACITY, 6))
    refused = len(server.refused) / (len(server.refused) + len(server.answered))
    # Twice the work that can be done comes in 6 s; ROOM examples are left at the end.
    assert refused == pytest.approx(0.5 - ROOM / (12 * CAPACITY), abs=0.05)
    assert throughput(server) > 0.9 * CAPACITY
    assert throughput(server) > 8 * ALONE
    steady = [len(batch) for time, batch in server.batches if 1 < time < 6]
    assert np.mean(steady) > 0.9 * SIZE
    assert np.mean([size == SIZE for size in server.sizes(0)[5:-20]]) > 0.95
    # What is accepted waits for the work of at most ROOM examples, and as long again before later stages.
    assert seconds(server).max() < 2.5 * ROOM / CAPACITY
    hints = np.array([error.retry_after for time, error in server.refused if time > 2])
    assert (hints > 0).all()
    assert (hints < 0.1).all()  # one example leaves every 5 ms


def test_at_the_capacity_throughput_is_close_to_it():
    server = served(poisson(CAPACITY, 6))
    assert throughput(server) > 0.9 * CAPACITY


def test_inputs_that_all_go_to_the_last_exit_fill_the_queue_but_do_not_collapse_it():
    rate = CAPACITY * sum(REACHING) / EXITS  # the capacity, if every example runs through all stages
    server = served(all_to_the_end(3 * rate, 5))
    assert throughput(server) > 0.9 * rate
    assert seconds(server).max() < 3 * ROOM / rate
    assert server.refused


def test_deadlines_at_twice_the_capacity_are_kept_by_earlier_exits():
    server = served(poisson(2 * CAPACITY, 3, deadline_ms=1000))
    assert seconds(server).max() <= 1 + 1e-9
    outcomes = [outcome for _, outcome in server.answered.values()]
    assert np.mean([outcome.answer is not None for outcome in outcomes]) > 0.95


def test_an_idle_server_runs_every_example_at_once():
    server = served([(10.0 * i, x[None], {}) for i, x in enumerate(rows(50))])
    exits = np.concatenate([outcome.answer.exit for _, outcome in server.answered.values()])
    assert seconds(server) == pytest.approx((exits + 1) * (FIXED + EACH))


def test_where_batches_save_no_time_examples_do_not_wait():
    one = Scheduler(NETWORK, Options(wait_ms=1000))
    server = Server(one, NETWORK, affine(0.0, 0.001))
    server.serve(poisson(300, 1))
    busy = 0.0
    for time, batch in server.batches:
        assert time == pytest.approx(max(busy, min(part.since for part in batch.parts)), abs=1e-9)
        busy = time + 0.001 * len(batch)


def test_survivors_are_not_starved_by_arrivals_nor_arrivals_by_survivors():
    # Every hundredth example goes on; a full batch of survivors takes 100 batches of the first stage, 7 s.
    few = served(poisson(2.4 * CAPACITY, 4, shares=(0.99, 0.005, 0.005)))
    waited = [time - min(part.since for part in batch.parts) for time, batch in few.batches if batch.stage]
    assert len(waited) > 3
    assert max(waited) < 2
    # Every example goes on: the first stage gets its third of the batches.
    many = served(all_to_the_end(2 * CAPACITY, 3))
    stages = np.array([batch.stage for time, batch in many.batches if 1 < time < 3])
    assert np.bincount(stages, minlength=EXITS) / len(stages) == pytest.approx([1 / 3] * 3, abs=0.05)


def test_a_large_request_does_not_hold_up_small_ones():
    arrivals = [(0.0, rows(ROOM - 10), {}), *((0.1 + 0.05 * i, rows(1, i), {}) for i in range(10))]
    server = served(arrivals)
    large, small = [], []
    for ticket, (_, outcome) in server.answered.items():
        (large if ticket.examples > 1 else small).append(outcome.seconds)
    assert max(small) < large[0] / 2
