from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fake_network import EVERYTHING, FAILS, NOTHING, POLICY, Server, affine, network, rows, stopping_at
from suffice_runtime.scheduling.options import Options
from suffice_runtime.scheduling.requests import DeadlineError, RefusedError
from suffice_runtime.scheduling.scheduler import Scheduler
from suffice_runtime.sets import SetRule

NETWORK = network()

FIRST, MIDDLE, LAST = (stopping_at([k]) for k in range(3))


def scheduler(**options):
    return Scheduler(NETWORK, Options(**options))


def run(batch):
    return NETWORK.graphs[batch.stage](batch.arrays)


def step(one, now):
    """Run one batch at once."""
    batch = one.next(now)
    one.done(batch, run(batch), now)
    return batch


def finish(one, now=0.0):
    while (batch := one.next(now)) is not None:
        one.done(batch, run(batch), now)
    return one.collect(now)


def test_examples_of_many_requests_run_together_at_every_stage():
    one = scheduler()
    tickets = [one.submit(rows(3, seed), 0.0) for seed in range(10)]
    ran = []
    while (batch := one.next(0.0)) is not None:
        ran.append((batch.stage, len(batch)))
        one.done(batch, run(batch), 0.0)
    outcomes = one.collect(0.0)
    exits = np.concatenate([outcome.answer.exit for outcome in outcomes])
    assert ran == [(k, (exits >= k).sum()) for k in range(3)]
    assert sorted(outcome.ticket.number for outcome in outcomes) == [ticket.number for ticket in tickets]
    assert one.collect(0.0) == []


def test_a_request_alone_runs_at_once_and_nothing_is_to_wait_for():
    one = scheduler(wait_ms=1000)
    one.submit(LAST, 5.0)
    for stage in range(3):
        batch = one.next(5.0 + stage)
        assert batch.stage == stage
        one.done(batch, run(batch), 6.0 + stage)
    (outcome,) = one.collect(8.0)
    assert outcome.seconds == 3.0
    assert one.next(8.0) is None
    assert one.wake_at(8.0) == np.inf


def test_requests_of_no_examples_have_an_empty_answer():
    one = scheduler()
    ticket = one.submit(rows(0), 0.0)
    (outcome,) = one.collect(0.0)
    assert (outcome.ticket, len(outcome.answer), outcome.errors) == (ticket, 0, ())


def test_a_request_beyond_the_room_is_refused_with_the_time_to_try_again():
    one = scheduler(max_rows=10)
    one.submit(rows(6), 0.0)
    with pytest.raises(RefusedError, match="expected room for 5 examples, got 6 of at most 10") as refusal:
        one.submit(rows(5), 0.0)
    assert refusal.value.retry_after == 1.0  # nothing has left yet
    one.submit(rows(4), 0.0)
    finish(one, 0.0)
    one.submit(rows(10), 0.01)
    with pytest.raises(RefusedError) as refusal:
        one.submit(rows(1), 0.02)
    assert refusal.value.retry_after == pytest.approx(0.1, rel=0.05)  # ten left in the memory of 1 s
    with pytest.raises(ValueError, match="expected at most 10 examples in a request, got 11"):
        scheduler(max_rows=10).submit(rows(11), 0.0)


def test_a_closed_scheduler_refuses_and_finishes():
    one = scheduler()
    one.submit(rows(3), 0.0)
    one.close()
    assert not one.drained
    with pytest.raises(RefusedError, match="closes") as refusal:
        one.submit(FIRST, 0.0)
    assert refusal.value.retry_after is None
    assert len(finish(one)) == 1
    assert one.drained


@pytest.mark.parametrize(
    ("terms", "error", "message"),
    [
        ({"deadline_ms": 0}, ValueError, "expected deadline_ms as a finite number above 0, got 0"),
        ({"deadline_ms": np.nan}, ValueError, "expected deadline_ms"),
        ({"cap_exit": 3}, ValueError, "expected cap_exit as the number of an exit, 0 to 2, got 3"),
        ({"cap_exit": -1}, ValueError, "expected cap_exit"),
        ({"cap_exit": True}, ValueError, "expected cap_exit"),
        ({"policy": replace(POLICY, score="entropy")}, ValueError, "expected a policy of the score 'confidence'"),
        ({"policy": 3}, TypeError, "expected a policy of suffice_runtime, got int"),
    ],
)
def test_wrong_parameters_are_refused_and_nothing_is_accepted(terms, error, message):
    one = scheduler()
    with pytest.raises(error, match=message):
        one.submit(FIRST, 0.0, **terms)
    with pytest.raises(TypeError, match="expected float32"):
        one.submit(FIRST.astype(np.float64), 0.0)
    assert one.load().requests == 0
    assert one.next(0.0) is None


def test_a_bundle_without_policy_is_refused():
    with pytest.raises(ValueError, match="expected a bundle with a policy"):
        Scheduler(network(policy=None))


@pytest.mark.parametrize(
    "options",
    [{"sizes": ()}, {"sizes": (2, 2)}, {"sizes": (0, 1)}, {"lengths": (8, 4)}, {"wait_ms": -1}, {"wait_ms": np.inf},
     {"max_rows": 0}, {"max_audit_rows": -1}, {"cap_exit": -1}, {"cap_exit": 3}],
)  # fmt: skip
def test_wrong_options_are_refused(options):
    with pytest.raises(ValueError, match=f"expected .*{next(iter(options))}"):
        scheduler(**options)


def test_a_batch_is_returned_once():
    one = scheduler()
    one.submit(MIDDLE, 0.0)
    batch = one.next(0.0)
    result = run(batch)
    with pytest.raises(ValueError, match="expected outputs for 1 examples, got 0"):
        one.done(batch, result._replace(prediction=result.prediction.take(np.array([], dtype=int))), 0.0)
    with pytest.raises(ValueError, match="expected outputs for 1 examples, got 0"):
        one.done(batch, result._replace(carried=[result.carried[0][:0]]), 0.0)
    one.done(batch, result, 0.0)
    for again in (lambda: one.done(batch, result, 0.0), lambda: one.failed(batch, ValueError(), 0.0)):
        with pytest.raises(ValueError, match="expected a batch that runs"):
            again()
    assert len(finish(one)) == 1


def test_requests_finish_under_the_policy_that_they_came_with():
    one = scheduler()
    old = one.submit(LAST, 0.0)
    one.policy = EVERYTHING
    new = one.submit(LAST, 0.0)
    own = one.submit(FIRST, 0.0, policy=NOTHING)
    exits = {outcome.ticket: outcome.answer.exit.tolist() for outcome in finish(one)}
    assert exits == {old: [2], new: [0], own: [2]}
    with pytest.raises(ValueError, match="expected a policy of the score"):
        one.policy = replace(POLICY, score="entropy")
    assert one.policy is EVERYTHING


def test_the_cap_of_a_request_and_of_the_server_stop_examples_and_mark_them():
    x = stopping_at([0, 1, 2])
    one = scheduler(cap_exit=1)
    one.submit(x, 0.0)
    one.submit(x, 0.0, cap_exit=0)
    one.submit(x, 0.0, cap_exit=2)
    served, own, wider = sorted(finish(one), key=lambda outcome: outcome.ticket.number)
    assert served.answer.exit.tolist() == wider.answer.exit.tolist() == [0, 1, 1]
    assert served.capped.tolist() == [False, False, True]
    assert own.answer.exit.tolist() == [0, 0, 0]
    assert own.capped.tolist() == [False, True, True]
    assert not own.late.any()


def test_a_deadline_answers_by_the_last_exit_that_was_passed():
    one = scheduler()
    one.submit(stopping_at([0, 2, 2]), 0.0, deadline_ms=100)
    step(one, 0.01)
    assert one.wake_at(0.02) == 0.1
    assert one.next(0.02).stage == 1  # runs beyond the deadline
    assert one.collect(0.0999) == []
    (outcome,) = one.collect(0.1)
    assert outcome.answer.exit.tolist() == [0, 0, 0]
    assert outcome.late.tolist() == [False, True, True]
    assert outcome.answer.scores[:, 0].tolist() == [1, 0, 0]
    assert one.wake_at(0.1) == np.inf


def test_outputs_that_come_behind_the_deadline_are_ignored():
    one = scheduler()
    one.submit(LAST, 0.0, deadline_ms=100)
    step(one, 0.0)
    batch = one.next(0.0)
    one.done(batch, run(batch), 0.2)
    (outcome,) = one.collect(0.2)
    assert outcome.answer.exit.tolist() == [0]
    assert one.next(0.2) is None


def test_a_deadline_before_the_first_exit_is_an_error():
    one = scheduler()
    one.submit(rows(2), 0.0, deadline_ms=100)
    batch = one.next(0.0)
    (outcome,) = one.collect(0.1)
    assert outcome.answer is None
    assert [error.position for error in outcome.errors] == [0, 1]
    assert all(isinstance(error.__cause__, DeadlineError) for error in outcome.errors)
    one.done(batch, run(batch), 0.2)
    assert one.collect(0.2) == []


def test_examples_of_a_batch_that_failed_are_answered_at_their_deadline_too():
    one = scheduler()
    one.submit(stopping_at([2, 2]), 0.0, deadline_ms=100)
    step(one, 0.0)
    one.failed(one.next(0.0), MemoryError("for this size"), 0.0)
    batch = one.next(0.0)
    assert (len(batch), one.load().waiting) == (1, (0, 1, 0))
    (outcome,) = one.collect(0.1)
    assert outcome.late.tolist() == [True, True]
    one.done(batch, run(batch), 0.2)
    assert one.next(0.2) is None


def test_the_time_that_examples_wait_is_counted_over_all_stages():
    one = scheduler()
    one.submit(LAST, 0.0)
    waited = []
    for start in (0.3, 0.6, 1.0):
        batch = one.next(start)
        waited.append(batch.parts[0].waited)
        one.done(batch, run(batch), start + 0.1)
    assert waited == pytest.approx([0.0, 0.3, 0.5])


def test_a_stage_that_would_end_behind_the_deadline_does_not_run():
    one = scheduler(sizes=(1,))
    one.times.record(1, 3, 1, 0.05)
    one.submit(LAST, 0.0, deadline_ms=40)
    step(one, 0.01)
    assert one.next(0.01) is None
    (outcome,) = one.collect(0.01)
    assert outcome.late.tolist() == [True]
    assert outcome.answer.exit.tolist() == [0]


def test_cancelled_requests_leave():
    one = scheduler()
    gone, stays = one.submit(rows(3), 0.0), one.submit(LAST, 0.0)
    assert one.cancel(gone, 0.0)
    assert not one.cancel(gone, 0.0)
    batch = one.next(0.0)
    assert len(batch) == 1
    running = one.submit(FIRST, 0.0)
    one.done(batch, run(batch), 0.0)
    second = one.next(0.0)
    assert one.cancel(running if second.stage == 0 else stays, 0.0)
    one.done(second, run(second), 0.0)
    (outcome,) = finish(one)
    assert outcome.ticket == (stays if second.stage == 0 else running)
    assert one.load().rows == 0


def test_outputs_for_a_cancelled_request_are_ignored():
    one = scheduler()
    ticket = one.submit(LAST, 0.0)
    one.audit(ticket)
    batch = one.next(0.0)
    assert one.cancel(ticket, 0.0)
    one.done(batch, run(batch), 0.0)
    assert one.next(0.0) is None
    assert one.load().waiting == (0, 0, 0)
    ticket = one.submit(stopping_at([2, 2]), 0.0)
    one.failed(one.next(0.0), MemoryError("for this size"), 0.0)
    assert one.cancel(ticket, 0.0)
    assert one.next(0.0) is None
    assert one.collect(0.0) == []


def test_an_example_on_which_a_graph_fails_is_an_error_of_its_own():
    one = scheduler()
    x = stopping_at([2, 2, 2, 2])
    bad = x.copy()
    bad[1, 0] = FAILS
    one.submit(x, 0.0)
    one.submit(bad, 0.0)
    server = Server(one, NETWORK, affine(0.001, 0.0))
    server.serve([])
    fine, failed = (outcome for _, (_, outcome) in sorted(server.answered.items(), key=lambda pair: pair[0].number))
    assert len(fine.answer) == 4
    assert failed.positions.tolist() == [0, 2, 3]
    (error,) = failed.errors
    assert (error.stage, error.position) == (0, 1)
    assert "stage 0 failed for example 1: a graph that fails" in str(error)


@pytest.mark.parametrize("what", ["input", "score"])
def test_numbers_that_are_not_finite_are_errors_of_their_examples(what):
    one = scheduler()
    x = stopping_at([0, 0, 0])
    if what == "input":
        x[1, 0] = np.nan
    one.submit(x, 0.0)
    batch = one.next(0.0)
    result = run(batch)
    if what == "score":
        result = result._replace(scores=np.array([1, np.inf, 1]))
    one.done(batch, result, 0.0)
    (outcome,) = one.collect(0.0)
    assert outcome.positions.tolist() == [0, 2]
    (error,) = outcome.errors
    assert (error.stage, error.position) == (0, 1)
    assert "NaN or infinity" in str(error)
    assert "position 1" in str(error)


def test_a_prediction_that_is_not_finite_is_an_error_only_if_it_is_answered():
    one = scheduler()
    one.submit(stopping_at([0, 2]), 0.0)
    batch = one.next(0.0)
    result = run(batch)
    broken = replace(result.prediction, mean=np.full((2, 1), np.nan, dtype=np.float32))
    one.done(batch, result._replace(prediction=broken), 0.0)
    (outcome,) = finish(one)
    assert outcome.positions.tolist() == [1]
    assert "the predictions of exit 0" in str(outcome.errors[0])


def test_a_late_answer_that_is_not_finite_is_an_error():
    one = scheduler()
    one.submit(stopping_at([2, 2]), 0.0, deadline_ms=10)
    batch = one.next(0.0)
    result = run(batch)
    broken = replace(result.prediction, mean=np.array([[np.nan], [1]], dtype=np.float32))
    one.done(batch, result._replace(prediction=broken), 0.0)
    (outcome,) = one.collect(1.0)
    assert outcome.positions.tolist() == [1]
    assert outcome.late.tolist() == [True]
    assert "the predictions of exit 0" in str(outcome.errors[0])


def test_sets_of_examples_that_their_policy_did_not_stop_contain_everything():
    rule = SetRule(np.array([1.0, 1.0, 1.0]), "interval", 0.9, True, (9, 9, 9))
    one = scheduler()
    one.submit(stopping_at([0, 2]), 0.0, policy=replace(POLICY, sets=rule), cap_exit=0)
    (outcome,) = finish(one)
    assert np.isfinite(outcome.answer.set.low[0]).all()
    assert outcome.answer.set.low[1].tolist() == [-np.inf]
    assert outcome.answer.set.high[1].tolist() == [np.inf]


def test_audits_run_only_when_nothing_else_waits():
    one = scheduler()
    one.audit(one.submit(FIRST, 0.0))
    step(one, 0.0)
    (outcome,) = one.collect(0.0)
    assert outcome.answer.exit.tolist() == [0]
    one.submit(LAST, 0.0)
    stages = [step(one, 0.0) for _ in range(5)]
    assert [(batch.stage, batch.audit) for batch in stages] == [
        (0, False), (1, False), (2, False), (1, True), (2, True)
    ]  # fmt: skip
    (audited,) = one.audited()
    assert (audited.finished.exit, audited.last.exit) == (0, 2)
    assert audited.finished.prediction.mean.tolist() == [[0.0]]
    assert audited.last.prediction.mean.tolist() == [[20.0]]
    assert one.audited() == []


def test_audits_for_which_there_is_no_room_are_dropped():
    one = scheduler(max_audit_rows=3)
    for _ in range(2):
        one.audit(one.submit(stopping_at([0, 0]), 0.0))
    step(one, 0.0)
    assert (one.load().auditing, one.load().dropped) == (2, 2)
    one.close(audits=True)
    assert (one.load().auditing, one.load().dropped) == (2, 2)
    one.close()
    assert (one.load().auditing, one.load().dropped) == (0, 4)
    assert len(one.collect(0.0)) == 2
    assert [(audited.ticket.number, audited.last) for audited in one.audited()] == [(1, None), (0, None)]


def test_of_an_audit_that_fails_only_the_example_that_causes_it_is_dropped():
    one = scheduler()
    x = stopping_at([0] * 5, np.arange(5))
    one.audit(one.submit(x, 0.0))
    step(one, 0.0)
    while (batch := one.next(0.0)) is not None:
        assert batch.audit
        if batch.stage == 2 and (batch.arrays[0][:, 0] == 3).any():
            one.failed(batch, ArithmeticError("a graph that fails for this example"), 0.0)
        else:
            one.done(batch, run(batch), 0.0)
    audited = one.audited()
    done = np.concatenate([found.finished.positions for found in audited if found.last is not None])
    assert sorted(done) == [0, 1, 2, 4]
    (dropped,) = (found.finished for found in audited if found.last is None)
    assert (dropped.positions.tolist(), dropped.exit, dropped.prediction.mean.tolist()) == ([3], 0, [[3.0]])
    assert one.load().dropped == 1


def test_audits_of_a_request_that_is_cancelled_before_its_answer_are_not_reported():
    one = scheduler(max_audit_rows=4)
    ticket = one.submit(stopping_at([0, 0, 0, 2]), 0.0)
    one.audit(ticket)
    step(one, 0.0)
    assert one.load().auditing == 3
    assert one.cancel(ticket, 0.0)
    assert one.load().auditing == one.load().dropped == 0
    one.submit(LAST, 0.0)
    assert len(finish(one)) == 1
    assert one.audited() == []


def test_an_audit_is_no_longer_than_the_bound_on_waiting():
    one = scheduler(sizes=(1, 2, 4, 8), wait_ms=10)
    for size in (1, 8):
        one.times.record(1, 3, size, 0.004 * size)
    one.audit(one.submit(stopping_at([0] * 8), 0.0))
    step(one, 0.0)
    assert len(one.next(0.0)) == 2


def test_time_that_goes_back_counts_as_the_last_one():
    one = scheduler()
    one.submit(LAST, 10.0, deadline_ms=100)
    step(one, 10.05)
    assert one.wake_at(3.0) == 10.1
    assert one.collect(9.0) == []
    (outcome,) = one.collect(10.1)
    assert outcome.seconds == pytest.approx(0.1)


def test_graphs_of_fixed_shapes_run_on_padded_batches():
    one = scheduler(sizes=(4, 8), pad_batches=True)
    one.submit(rows(5), 0.0)
    batch = one.next(0.0)
    assert (len(batch), batch.size, len(batch.padded()[0])) == (5, 8, 8)
    one.done(batch, NETWORK.graphs[0](batch.padded()), 0.0)
    server = Server(one, NETWORK, affine(0.001, 0))
    server.serve([])
    ((_, outcome),) = server.answered.values()
    assert outcome.positions.tolist() == list(range(5))


def after_a_stream(count=200, **options):
    """Return a scheduler, idle after single examples every 2 ms, with runs of 50 ms, and the time of the last one."""
    one = scheduler(wait_ms=20, **options)
    for i in range(count):
        one.submit(FIRST, 0.002 * i)
        finish(one, 0.002 * i)
    for size in one._options.sizes:
        for _ in range(50):
            one.times.record(0, 3, size, 0.05)
    return one, 0.002 * (count - 1)


def test_an_example_waits_for_others_that_are_expected_if_that_saves_time():
    one, now = after_a_stream()
    start = now + 0.002
    one.submit(FIRST, start)
    assert one.next(start) is None
    assert start < one.wake_at(start) <= start + 0.02
    now = start + 0.001
    one.submit(FIRST, now)
    while (batch := one.next(now)) is None:
        assert now < one.wake_at(now) <= start + 0.02
        now = one.wake_at(now)
    assert len(batch) == 2


@settings(deadline=None, max_examples=12)
@given(st.lists(st.floats(0, 0.01), min_size=1, max_size=70))
def test_no_example_waits_for_longer_than_the_bound(gaps):
    one, now = after_a_stream(count=100)
    arrivals = (now + np.cumsum(gaps)).tolist()
    start, now = arrivals[0], arrivals[0]
    while True:
        while arrivals and arrivals[0] <= now:
            one.submit(FIRST, arrivals.pop(0))
        if (batch := one.next(now)) is not None:
            break
        wake = one.wake_at(now)
        assert now < wake <= start + 0.02
        now = min([wake, *arrivals[:1]])
    assert now <= start + 0.02
    assert len(batch) == len(gaps) - len(arrivals)


@pytest.mark.parametrize("what", ["deadline", "full", "closed", "nothing expected"])
def test_an_example_does_not_wait_in_vain(what):
    one, now = after_a_stream(sizes=(1, 2))
    start = now + (5.0 if what == "nothing expected" else 0.002)
    one.submit(FIRST, start, deadline_ms=52 if what == "deadline" else None)
    if what == "full":
        one.submit(FIRST, start)
    if what == "closed":
        one.close()
    assert one.next(start) is not None
