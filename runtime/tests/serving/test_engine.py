import asyncio
import logging
import threading
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

import bundles
from fake_network import EVERYTHING, FAILS, NOTHING, POLICY, network, rows, stopping_at
from serving import labeled
from suffice_runtime.running.network import Network
from suffice_runtime.scheduling.options import Options
from suffice_runtime.scheduling.requests import DeadlineError, RefusedError
from suffice_runtime.serving.engine import Engine

CLOSE = 1e-5
"""Tolerance of probabilities in float32 that the runtime states; kernels round differently in other batch sizes."""

X = bundles.inputs(400)
SOON = 10.0
"""Seconds after which an answer counts as missing."""


class Gate:
    """Graphs that wait until a gate is opened."""

    def __init__(self, network, stages=(0, 1, 2)):
        self.opened, self.waiting, self.armed = threading.Event(), threading.Semaphore(0), False
        graphs = [self.behind(graph) if k in stages else graph for k, graph in enumerate(network.graphs)]
        self.network = Network(network.manifest, graphs)

    def behind(self, graph):
        def run(arrays):
            if self.armed:
                self.waiting.release()
                assert self.opened.wait(SOON)
            return graph(arrays)

        return run

    def start(self, started, **terms):
        engine = started(labeled.as_runner(self.network), **terms)
        self.armed = True
        return engine

    def wait(self):
        """Wait until a graph is before the gate."""
        assert self.waiting.acquire(timeout=SOON)


def fake(**changes):
    return labeled.as_runner(network(**changes))


def assert_same(outcome, answer):
    assert outcome.errors == ()
    assert outcome.answer.exit.tolist() == answer.exit.tolist()
    np.testing.assert_allclose(outcome.answer.probs, answer.probs, atol=CLOSE, rtol=0)
    np.testing.assert_allclose(outcome.answer.scores, answer.scores, atol=CLOSE, rtol=CLOSE)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("options", [Options(), Options(sizes=(4, 16), pad_batches=True)])
def test_requests_of_many_threads_have_the_answers_of_each_alone(started, opened, workers, options):
    runner = opened(**{**bundles.MIXED, "sets": bundles.SETS})
    engine = started(runner, options, workers=workers)
    parts = np.split(X, np.sort(np.random.default_rng(0).integers(0, 401, size=150)))
    with ThreadPoolExecutor(16) as pool:
        futures = list(pool.map(engine.submit, parts))
    for future, x in zip(futures, parts, strict=True):
        assert_same(future.result(SOON), runner.run(x))


def test_tasks_of_an_event_loop_are_answered(started, opened):
    engine = started(opened())
    expected = opened().run(X)

    async def ask():
        return await asyncio.gather(*(engine.answer(x[None]) for x in X))

    for i, outcome in enumerate(asyncio.run(ask())):
        assert outcome.answer.exit[0] == expected.exit[i]


def test_texts_of_several_lengths_are_answered(started, opened):
    runner = opened(tokens=True)
    engine = started(runner, Options(lengths=(4, 8)))
    texts = [bundles.texts(3, tokens, seed=tokens) for tokens in (2, 3, 5, 7, 9)]
    for future, x in zip([engine.submit(x) for x in texts], texts, strict=True):
        assert_same(future.result(SOON), runner.run(x))


def test_a_task_that_is_cancelled_takes_its_request_along(started):
    gate = Gate(network())
    engine = gate.start(started)

    async def ask():
        first = asyncio.create_task(engine.answer(stopping_at([0])))
        await asyncio.to_thread(gate.wait)
        second = asyncio.create_task(engine.answer(rows(50)))
        await asyncio.sleep(0)
        assert engine.statistics().load.rows == 51
        for task in (first, second):
            task.cancel()
        done = await asyncio.gather(first, second, return_exceptions=True)
        assert [type(one) for one in done] == [asyncio.CancelledError] * 2

    asyncio.run(ask())
    statistics = engine.statistics()
    assert (statistics.load.rows, statistics.cancelled, engine._crew._open) == (0, 2, {})
    gate.opened.set()
    assert len(engine.submit(rows(3)).result(SOON).answer) == 3


def test_a_future_that_is_cancelled_once_its_answer_is_there_changes_nothing(started):
    gate = Gate(network())
    engine = gate.start(started)
    first = engine.submit(stopping_at([0]))
    gate.wait()
    late = engine.submit(rows(0))  # answered, but not collected as long as the graph runs
    assert late.cancel()
    gate.opened.set()
    assert len(first.result(SOON).answer) == 1
    with pytest.raises(CancelledError):
        late.result(SOON)
    assert engine.ready


def test_each_request_is_answered_under_the_policy_that_was_in_force(started):
    gate = Gate(network())
    engine = gate.start(started)
    x = stopping_at([0, 1, 2])
    futures = []
    for policy in (POLICY, EVERYTHING, NOTHING):
        engine.policy = policy
        futures += [(policy, engine.submit(x)), (EVERYTHING, engine.submit(x, policy=EVERYTHING))]
    assert (engine.policy_version, engine.policy) == (4, NOTHING)
    gate.opened.set()
    exits = {id(POLICY): [0, 1, 2], id(EVERYTHING): [0, 0, 0], id(NOTHING): [2, 2, 2]}
    for policy, future in futures:
        outcome = future.result(SOON)
        assert outcome.policy is policy
        assert outcome.answer.exit.tolist() == exits[id(policy)]
    with pytest.raises(ValueError, match="expected a policy of the score 'confidence'"):
        engine.policy = replace(POLICY, score="margin")
    assert engine.policy_version == 4


def test_an_example_on_which_a_graph_raises_is_an_error_of_its_own(started):
    engine = started(fake(), workers=2)
    futures = [engine.submit(stopping_at([2, 2, 2], [0, FAILS if i % 3 == 0 else 1, 2])) for i in range(60)]
    for i, future in enumerate(futures):
        outcome = future.result(SOON)
        assert [error.position for error in outcome.errors] == ([1] if i % 3 == 0 else [])
        assert len(outcome.answer) == 3 - len(outcome.errors)
    assert engine.statistics().failed == 20


def test_close_answers_what_was_accepted_and_refuses_the_rest(started):
    gate = Gate(network())
    engine = gate.start(started, workers=2)
    futures = [engine.submit(rows(2, seed)) for seed in range(300)]
    assert not engine.close(0.01)
    assert not engine.ready
    with pytest.raises(RefusedError, match="expected a server that accepts requests, got one that closes") as refusal:
        engine.submit(rows(1))
    assert refusal.value.retry_after is None
    gate.opened.set()
    assert engine.close(SOON)
    assert all(len(future.result(0).answer) == 2 for future in futures)
    assert engine.statistics().refused == 1
    assert not any(thread.is_alive() for thread in engine._crew._threads)


def test_close_under_load_leaves_no_future_open(started):
    engine, outcomes = started(fake(), workers=2), []

    def ask(seed):
        try:
            while True:
                outcomes.append(len(engine.submit(rows(3, seed)).result(SOON).answer))
        except RefusedError:
            return True

    with ThreadPoolExecutor(8) as pool:
        clients = pool.map(ask, range(8))
        time.sleep(0.05)
        assert engine.close(SOON)
        assert all(clients)
    assert set(outcomes) == {3}
    assert engine.statistics().requests == len(outcomes)


def test_an_error_of_the_engine_itself_fails_all_open_requests(started, caplog):
    gate = Gate(network())
    engine = gate.start(started)
    futures = [engine.submit(rows(2, seed)) for seed in range(5)]
    gate.wait()

    def broken(*_):
        raise AssertionError("a fault of the scheduler")

    engine._core.scheduler.done = broken
    with caplog.at_level(logging.CRITICAL):
        gate.opened.set()
        for future in futures:
            with pytest.raises(RuntimeError, match=r"got an engine that stopped.*a fault of the scheduler"):
                future.result(SOON)
    assert "the engine of 'model' stopped" in caplog.text
    assert not engine.ready
    with pytest.raises(RefusedError, match="expected an engine that runs, got one that stopped"):
        engine.submit(rows(1))


def test_a_callback_that_raises_keeps_no_other_future_from_its_outcome(started, caplog):
    gate = Gate(network())
    engine = gate.start(started)
    first, second = engine.submit(stopping_at([0])), engine.submit(stopping_at([0]))

    def leave(_):
        raise SystemExit

    first.add_done_callback(leave)
    with caplog.at_level(logging.CRITICAL):
        gate.opened.set()
        assert len(second.result(SOON).answer) == 1
    assert engine.ready


def test_the_last_exit_before_a_deadline_answers_while_the_next_graph_runs(started):
    gate = Gate(network(), stages=(1,))
    engine = gate.start(started)
    engine.submit(rows(3))
    future = engine.submit(stopping_at([1, 2]), deadline_ms=200)
    gate.wait()
    outcome = future.result(SOON)  # the gate is closed
    if outcome.answer is None:  # the machine was so slow that the deadline came before the first exit
        assert all(isinstance(error.__cause__, DeadlineError) for error in outcome.errors)
    else:
        assert (outcome.answer.exit.tolist(), outcome.late.tolist()) == ([0, 0], [True, True])
        assert engine.statistics().late == 2
    gate.opened.set()
    assert engine.close(SOON)


def test_a_task_whose_event_loop_ends_is_cancelled(started):
    gate = Gate(network())
    engine = gate.start(started)

    async def leave():
        asyncio.get_running_loop().create_task(engine.answer(rows(5)))
        await asyncio.to_thread(gate.wait)

    asyncio.run(leave())
    assert (engine.statistics().cancelled, engine.statistics().load.rows) == (1, 0)
    gate.opened.set()


def test_a_closed_event_loop_keeps_no_other_request_from_its_answer(started):
    gate = Gate(network())
    engine = gate.start(started)
    loop = asyncio.new_event_loop()
    task = loop.create_task(engine.answer(stopping_at([0])))
    loop.run_until_complete(asyncio.to_thread(gate.wait))
    loop.close()
    future = engine.submit(stopping_at([0]))
    gate.opened.set()
    assert len(future.result(SOON).answer) == 1
    assert engine.ready
    task._log_destroy_pending = False  # it never ends, as its loop is closed


def test_a_cap_holds_for_one_request(started):
    engine = started(fake())
    assert engine.submit(stopping_at([0, 2]), cap_exit=1).result(SOON).capped.tolist() == [False, True]
    assert engine.submit(stopping_at([0, 2])).result(SOON).capped.tolist() == [False, False]


def test_requests_that_cannot_be_answered_are_refused_and_counted(started):
    gate = Gate(network())
    engine = gate.start(started, options=Options(max_rows=10))
    kept = engine.submit(rows(8))
    with pytest.raises(RefusedError, match="expected room for 3 examples, got 8 of at most 10"):
        engine.submit(rows(3))
    with pytest.raises(TypeError, match="expected a NumPy array"):
        engine.submit([[1.0, 2.0, 3.0]])
    with pytest.raises(ValueError, match="expected deadline_ms as a finite number above 0"):
        asyncio.run(engine.answer(rows(1), deadline_ms=0))
    gate.opened.set()
    kept.result(SOON)
    statistics = engine.statistics()
    assert (statistics.refused, statistics.invalid, statistics.requests) == (1, 2, 1)


def test_audits_of_live_requests_reach_the_watch(started, caplog):
    engine = started(labeled.as_runner(labeled.network()), audit_share=1.0)
    for example in labeled.stream(60, loss=0.7):
        engine.submit(example[None]).result(SOON)
    end = time.monotonic() + SOON
    while engine.policy_version < 3 and time.monotonic() < end:
        time.sleep(0.005)
    watch = engine.watch()
    assert [alarm.kind for alarm in watch.alarms] == ["loss", "loss"]
    assert [record.args[1] for record in caplog.records] == ["loss", "loss"]
    assert (watch.step, watch.policy_version) == (2, 3)
    assert (engine.policy.thresholds == np.inf).all()
    assert engine.submit(labeled.stopping_at([0])).result(SOON).answer.exit.tolist() == [2]


def test_statistics_count_what_was_answered(started):
    engine = started(fake(), audit_share=0.0)
    x = stopping_at([0, 0, 1, 2, 2, 2])
    for _ in range(3):
        engine.submit(x).result(SOON)
    engine.submit(x, cap_exit=0).result(SOON)
    statistics = engine.statistics()
    assert (statistics.requests, statistics.examples, statistics.exits) == (4, 24, (12, 3, 9))
    assert (statistics.macs, statistics.priced, statistics.capped) == (12 + 6 + 27, 24, 4)
    assert statistics.request_seconds.count == 4
    assert [histogram.total for histogram in statistics.batch_sizes] == [24, 12, 9]
    for seconds, sizes in zip(statistics.stage_seconds, statistics.batch_sizes, strict=True):
        assert seconds.count == sizes.count >= 3
        assert 0 < seconds.total < statistics.seconds
    assert (statistics.load.rows, statistics.load.running, statistics.audited_runs) == (0, 0, 0)
    assert 0 < statistics.request_seconds.total < statistics.seconds * 4


def test_stages_have_run_before_the_first_request(started, opened):
    engine = started(opened(tokens=True))
    times = engine._core.scheduler.times
    # ids and mask of five tokens; a state of 4 and the five values; and the mean of the exits before
    assert [list(table) for table in times._tables] == [[10], [13], [13]]
    assert all(times.seconds(k, numbers, 1) > 0 for k, numbers in enumerate((10, 13, 13)))
    assert engine.statistics().requests == 0


def test_a_budget_names_a_policy(started):
    cheap, dear = replace(POLICY, shares=np.array([0.9, 0.1, 0.0])), replace(POLICY, shares=np.array([0.0, 0.0, 1.0]))
    net = network()
    policies = (cheap, net.manifest.policy, dear)
    engine = started(labeled.as_runner(Network(replace(net.manifest, policies=policies), net.graphs)))
    fractions = [engine.manifest.fraction(policy) for policy in policies]
    for fraction, policy in zip(fractions, policies, strict=True):
        assert engine.policy_for(fraction) is policy
    assert engine.policy_for(fractions[1] + 0.01) is policies[1]
    for budget in (fractions[0] - 0.01, 0, 1.1, float("nan")):
        with pytest.raises(ValueError, match="expected a budget"):
            engine.policy_for(budget)


@pytest.mark.parametrize(("terms", "message"), [({"workers": 0}, "workers"), ({"audit_share": 1.5}, "audit_share")])
def test_arguments_out_of_range_are_refused(terms, message):
    with pytest.raises(ValueError, match=f"expected {message}"):
        Engine(fake(), **terms)


def test_a_bundle_without_a_policy_is_refused():
    with pytest.raises(ValueError, match="expected a bundle with a policy"):
        Engine(fake(policy=None))
