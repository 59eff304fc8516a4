"""Any interleaving of calls: every accepted request is answered once, and each example as its policy says."""

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fake_network import EVERYTHING, EXITS, FAILS, NOTHING, POLICY, network, rows
from suffice_runtime.scheduling.options import Options
from suffice_runtime.scheduling.requests import DeadlineError, RefusedError
from suffice_runtime.scheduling.scheduler import Scheduler

SETTINGS = settings(deadline=None, max_examples=120)

MIXED = replace(POLICY, alternative=np.array([-np.inf, np.inf]), portion=0.5)
POLICIES = (POLICY, EVERYTHING, NOTHING, MIXED)

calls = st.lists(
    st.one_of(
        st.tuples(
            st.just("submit"),
            st.integers(0, 6),  # examples
            st.integers(0, 3),  # policy
            st.sampled_from([None, None, 1.0, 20.0]),  # deadline in ms
            st.sampled_from([None, None, 0, 1, 2]),  # cap
            st.booleans(),  # audit
            st.sampled_from(["fine", "fine", "fine", "failing", "input", "score"]),
        ),
        st.tuples(st.sampled_from(["next", "next", "next", "end", "end", "break", "collect"]), st.integers(0, 5)),
        st.tuples(st.sampled_from(["cancel", "swap"]), st.integers(0, 3)),
        st.tuples(st.just("advance"), st.sampled_from([0.001, 0.004, 0.03])),
        st.tuples(st.just("close"), st.just(0)),
    ),
    max_size=40,
)


class Game:
    """Scheduler with what was asked of it."""

    def __init__(self, options):
        self.network = network()
        self.scheduler = Scheduler(self.network, options)
        self.now, self.running, self.closed = 0.0, [], False
        self.accepted, self.cancelled, self.outcomes, self.audited = {}, set(), {}, []
        self.to_audit = set()

    def submit(self, examples, policy, deadline, cap, audit, what):
        x, i = rows(examples, seed=len(self.accepted)), examples // 2
        if examples and what != "fine":
            place, value = {"failing": (0, FAILS), "input": (0, np.inf), "score": (1, 3e38)}[what]
            x[i, place] = value
        chosen = POLICIES[policy] if policy else None
        used = chosen or self.scheduler.policy
        terms = {"policy": chosen, "deadline_ms": deadline, "cap_exit": cap}
        try:
            ticket = self.scheduler.submit(x, self.now, **terms)
        except RefusedError as refusal:
            self.check_refusal(refusal, examples)
            return
        assert not self.closed
        assert ticket not in self.accepted
        self.accepted[ticket] = (x, used, cap, deadline, what)
        if audit:
            self.scheduler.audit(ticket)
            self.to_audit.add(ticket)

    def check_refusal(self, refusal, examples):
        assert (refusal.retry_after is None) == self.closed
        room = self.scheduler._options.max_rows - self.scheduler.load().rows
        assert self.closed or room < max(examples, 1)

    def next(self, _):
        batch = self.scheduler.next(self.now)
        if batch is not None:
            assert 1 <= len(batch) <= self.scheduler._options.sizes[-1]
            assert batch.audit or not any(part.request.closed for part in batch.parts)
            self.running.append(batch)

    def end(self, i):
        if self.running:
            batch = self.running.pop(i % len(self.running))
            try:
                result = self.network.graphs[batch.stage](batch.arrays)
                if result.scores is not None:
                    scores = np.where(result.scores > 1e38, np.nan, result.scores)
                    result = result._replace(scores=scores)
            except ArithmeticError as error:
                self.scheduler.failed(batch, error, self.now)
            else:
                self.scheduler.done(batch, result, self.now)

    def break_(self, i):
        """Let a batch fail although its examples are fine."""
        if self.running:
            batch = self.running.pop(i % len(self.running))
            if len(batch) > 1:
                self.scheduler.failed(batch, MemoryError("for this size"), self.now)
            else:
                self.running.append(batch)

    def collect(self, _=0):
        for outcome in self.scheduler.collect(self.now):
            assert outcome.ticket not in self.outcomes
            self.outcomes[outcome.ticket] = outcome
        self.audited += self.scheduler.audited()

    def cancel(self, i):
        if self.accepted:
            ticket = list(self.accepted)[i % len(self.accepted)]
            self.collect()
            expected = ticket not in self.outcomes and ticket not in self.cancelled
            assert self.scheduler.cancel(ticket, self.now) == expected
            if expected:
                self.cancelled.add(ticket)

    def swap(self, i):
        self.scheduler.policy = POLICIES[i]

    def advance(self, seconds):
        self.now += seconds

    def close(self, _):
        self.scheduler.close()
        self.closed = True

    def play(self, steps):
        for name, *choices in steps:
            getattr(self, "break_" if name == "break" else name)(*choices)
            load = self.scheduler.load()
            assert load.running == len(self.running)
            assert load.rows <= self.scheduler._options.max_rows

    def drain(self):
        """Serve until nothing is left, the clock going from one time of waking to the next."""
        for _ in range(100_000):
            self.collect()
            self.next(0)
            if self.running:
                self.end(0)
            elif (wake := self.scheduler.wake_at(self.now)) < np.inf:
                assert wake > self.now
                self.now = wake
            else:
                self.collect()
                return
        raise AssertionError("expected an end")

    def check(self):
        assert set(self.outcomes) == set(self.accepted) - self.cancelled
        assert self.scheduler.load().requests == self.scheduler.load().rows == 0
        for ticket, outcome in self.outcomes.items():
            check_outcome(ticket, outcome, *self.accepted[ticket])


def check_outcome(ticket, outcome, x, policy, cap, deadline, what):
    failed = [error.position for error in outcome.errors]
    assert sorted([*outcome.positions.tolist(), *failed]) == list(range(ticket.examples))
    assert outcome.policy is policy
    for error in outcome.errors:
        late = isinstance(error.__cause__, DeadlineError)
        assert deadline is not None if late else (what != "fine" and error.position == ticket.examples // 2)
    if outcome.answer is None:
        assert len(failed) == ticket.examples > 0
        return
    answer, positions = outcome.answer, outcome.positions
    assert len(answer) == len(positions)
    np.testing.assert_array_equal(answer.mean[:, 0], x[positions, 0] + 10 * answer.exit)
    expected = exits(x[positions], policy)
    assert not (outcome.late & outcome.capped).any()
    own = ~(outcome.late | outcome.capped)
    assert (answer.exit[own] == expected[own]).all()
    assert (answer.exit[~own] < expected[~own]).all()
    assert (answer.exit[outcome.capped] == cap).all()
    assert cap is None or (answer.exit <= cap).all()
    assert deadline is not None or not outcome.late.any()
    for exit_, row, scores in zip(answer.exit, x[positions], answer.scores, strict=True):
        passed = min(exit_ + 1, EXITS - 1)
        assert (scores[:passed] == row[1 : 1 + passed]).all()
        assert np.isnan(scores[passed:]).all()


def exits(x, policy):
    """Return where a policy stops examples."""
    if not len(x):
        return np.empty(0, dtype=np.int64)
    coin = network().enter(x, coin=policy.needs_coin)[0].coin
    stops = [policy.stops(k, x[:, 1 + k].astype(np.float64), coin) for k in range(EXITS - 1)]
    return np.stack([*stops, np.ones(len(x), dtype=bool)]).argmax(axis=0)


@SETTINGS
@given(calls, st.sampled_from([(1,), (1, 2, 4), (3,)]), st.sampled_from([0.0, 5.0]), st.sampled_from([8, 1000]))
def test_every_accepted_request_is_answered_once(steps, sizes, wait, most):
    game = Game(Options(sizes=sizes, wait_ms=wait, max_rows=most, max_audit_rows=5))
    game.play(steps)
    game.drain()
    game.check()


@SETTINGS
@given(calls)
def test_close_finishes_what_was_accepted(steps):
    game = Game(Options(sizes=(1, 4), wait_ms=1000.0))
    game.play(steps)
    game.close(0)
    start = game.now
    deadlines = [deadline for *_, deadline, _ in game.accepted.values() if deadline is not None]
    game.drain()
    assert game.scheduler.drained
    assert not game.scheduler.load().auditing
    assert game.now <= start + max(deadlines, default=0) / 1000  # nothing waits for others
    game.check()


@SETTINGS
@given(calls, st.sampled_from([3, 1000]))
def test_every_example_that_stops_early_is_audited_or_dropped_once(steps, room):
    game = Game(Options(sizes=(1, 2, 4), max_audit_rows=room))
    game.play([step for step in steps if step[0] != "close"])
    game.drain()
    seen = set()
    for one in game.audited:
        x, *_ = game.accepted[one.ticket]
        assert one.finished.exit < EXITS - 1
        if one.last is not None:
            assert one.finished.positions.tolist() == one.last.positions.tolist()
            assert one.last.exit == EXITS - 1
        for finished in (one.finished, one.last or one.finished):
            np.testing.assert_array_equal(finished.prediction.mean[:, 0], x[finished.positions, 0] + 10 * finished.exit)
            assert len(finished.scores) == min(finished.exit + 1, EXITS - 1)
        new = {(one.ticket, int(position)) for position in one.finished.positions}
        assert not new & seen
        seen |= new
    for ticket in game.to_audit - game.cancelled:
        outcome = game.outcomes[ticket]
        if outcome.answer is not None:
            own = ~(outcome.late | outcome.capped) & (outcome.answer.exit < EXITS - 1)
            assert {(ticket, int(position)) for position in outcome.positions[own]} == {
                (found, position) for found, position in seen if found == ticket
            }
