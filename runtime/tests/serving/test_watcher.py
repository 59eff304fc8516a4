from dataclasses import replace

import numpy as np
import pytest

import fake_network
from fake_network import NOTHING, POLICY
from serving.labeled import FAILS, NAN, PROMISE, PROMISED, SAFER, network, stopping_at, stream
from suffice_runtime.monitor import LossAlarm, MeanBounds, ShareAlarm
from suffice_runtime.scheduling.options import Options
from suffice_runtime.serving.core import AUDIT_SECONDS, Core
from suffice_runtime.serving.evidence import ALPHA, TOLERANCE


class Served:
    """Core with one worker and a fake clock, in which a run takes a millisecond."""

    def __init__(self, net=None, share=1.0, track=False, **options):
        self.network = net or network()
        self.core = Core(self.network, Options(**options), audit_share=share, seed=0, track=track, now=0.0)
        self.now, self.outcomes = 0.0, {}

    def submit(self, x, **terms):
        return self.core.submit(x, self.now, **terms)

    def step(self):
        """Run one batch; return whether there was one."""
        batch = self.core.next(self.now)
        if batch is not None:
            self.now += 0.001
            try:
                result = self.network.graphs[batch.stage](batch.arrays)
            except ArithmeticError as error:
                result = error
            self.core.finish(batch, result, self.now)
        self.outcomes |= {outcome.ticket.number: outcome for outcome in self.core.collect(self.now)}
        return batch is not None

    def finish(self):
        while self.step():
            pass
        while self.core.advance():
            pass

    @property
    def watch(self):
        return self.core.watcher.snapshot()


def one_by_one(x):
    return [x[i : i + 1] for i in range(len(x))]


def test_losses_and_exits_are_added_in_the_order_of_acceptance():
    x, served = stream(40, loss=0.05, seed=3), Served()
    for example in one_by_one(x):
        served.submit(example)
    served.finish()
    exits = np.concatenate([served.outcomes[i].answer.exit for i in range(40)])
    losses = (x[np.arange(40), exits] != x[:, 2]).astype(float)
    watch = served.watch
    assert losses.sum() > 0
    assert (watch.audited, watch.loss) == (40, losses.mean())
    assert watch.exits == tuple(np.bincount(exits))
    assert watch.e_value == float(LossAlarm.start(0.1, ALPHA / 2).update(losses).e_value)
    assert watch.e_limit == 2 / ALPHA
    assert watch.bound == float(MeanBounds.start().update(losses).upper(ALPHA))
    shares = ShareAlarm.start(POLICY.shares, TOLERANCE, ALPHA).update(exits)
    assert watch.exits_e_value == pytest.approx(np.exp(shares.log_e), rel=1e-12)
    assert watch.cost == pytest.approx((exits + 1).mean() / 3)
    assert watch.epistemic == pytest.approx(served.outcomes[0].answer.epistemic[0])
    assert (watch.waiting, watch.skipped, watch.unobserved, watch.alarms) == (0, 0, 0, ())
    sorted_losses = LossAlarm.start(0.1, ALPHA / 2).update(np.sort(losses))
    assert watch.e_value != float(sorted_losses.e_value)  # so the order does matter


def test_a_loss_waits_for_those_of_requests_before_it():
    served = Served()
    served.submit(stopping_at([0]))
    served.submit(stopping_at([2]))
    for _ in range(3):
        assert served.step()  # both are answered
        served.core.advance()
    assert (len(served.outcomes), served.watch.audited, served.watch.waiting) == (2, 0, 2)
    served.finish()
    assert (served.watch.audited, served.watch.waiting) == (2, 0)


def test_answers_that_are_not_those_of_the_policy_are_not_observed():
    served = Served()
    for terms in ({"policy": NOTHING}, {"deadline_ms": 1e6}, {"cap_exit": 1}, {"policy": PROMISED}):
        served.submit(stopping_at([0, 1, 2], wrong=True), **terms)
    served.finish()
    watch = served.watch
    assert (watch.audited, sum(watch.exits), watch.unobserved, watch.waiting) == (0, 0, 4, 0)
    assert watch.loss is watch.bound is watch.cost is watch.epistemic is None
    capped = Served(cap_exit=1)
    capped.submit(stopping_at([0]))
    capped.finish()
    assert (capped.watch.audited, capped.watch.unobserved) == (0, 1)


def test_a_share_of_the_requests_is_audited():
    served = Served(share=0.25, max_rows=10**6)
    for example in one_by_one(stream(2000, loss=0.0)):
        served.submit(example)
    served.finish()
    # four standard errors of a binomial share
    assert abs(served.watch.audited - 500) < 4 * np.sqrt(2000 * 0.25 * 0.75)


def test_no_loss_is_missing_because_of_its_exit_when_there_is_little_room():
    served, n = Served(network(POLICY, ()), max_audit_rows=4), 2000
    x = stream(n, loss=0.2, seed=5)
    for i in range(n):
        served.submit(x[i : i + 1])
        served.step()
        served.core.advance()
    served.finish()
    watch = served.watch
    assert watch.skipped > n / 4
    assert watch.audited + watch.skipped == n
    assert served.core.scheduler.load().dropped == 0
    # Audits that were dropped where the room is full would leave out examples that stop early. Four standard errors.
    assert abs(watch.loss - 0.2) < 4 * np.sqrt(0.16 / watch.audited)


def test_an_alarm_puts_the_next_policy_of_the_sequence_in_force():
    served = Served()
    for example in one_by_one(stream(30, loss=0.7)):
        served.submit(example)
    served.finish()
    watch = served.watch
    assert served.core.scheduler.policy is SAFER
    (alarm,) = watch.alarms
    assert (alarm.kind, alarm.policy_version, watch.policy_version) == ("loss", 1, 2)
    assert (watch.step, watch.steps, watch.promise) == (1, 3, PROMISE)
    assert 0 < alarm.observations < 30
    assert (watch.audited, watch.loss, sum(watch.exits)) == (0, None, 0)  # those of the old policy do not count
    assert watch.shares == tuple(SAFER.shares)
    served.submit(stopping_at([0]))
    served.finish()
    assert served.outcomes[30].policy is SAFER
    for example in one_by_one(stream(60, loss=0.7, seed=1)):
        served.submit(example)
    served.finish()
    safest = served.core.scheduler.policy
    assert (served.watch.step, len(served.watch.alarms)) == (2, 2)
    assert (safest.thresholds == np.inf).all()
    served.now += 1  # at most 50 examples per second are watched
    for example in one_by_one(stream(60, loss=0.7, seed=2)):
        served.submit(example)
    served.finish()
    assert (served.watch.loss, served.watch.audited, served.watch.exits) == (0.0, 60, (0, 0, 50))


def test_losses_within_the_promise_raise_no_alarm():
    served = Served()
    for example in one_by_one(stream(1000, loss=0.05)):
        served.submit(example)
    served.finish()
    assert (served.watch.audited, served.watch.alarms) == (1000, ())
    assert served.watch.loss < served.watch.bound < 0.1


def test_exits_of_other_shares_raise_an_alarm_but_change_no_policy():
    served = Served(share=0.0)
    for example in one_by_one(stream(600, loss=0.0, shares=(0.05, 0.05, 0.9))):
        served.submit(example)
        served.finish()
        served.now += 0.02  # at most 50 examples per second are watched
    (alarm,) = served.watch.alarms
    assert (alarm.kind, served.watch.policy_version, served.core.scheduler.policy) == ("exits", 1, PROMISED)
    assert served.watch.exits_e_value > served.watch.exits_e_limit


@pytest.mark.parametrize("policy", [POLICY, replace(PROMISED, promise=replace(PROMISE, loss="accuracy"))])
def test_without_a_promise_on_agreement_there_is_a_bound_and_no_alarm(policy):
    served = Served(network(policy, ()))
    for example in one_by_one(stream(60, loss=0.7)):
        served.submit(example)
    served.finish()
    watch = served.watch
    assert (watch.promise, watch.steps, watch.e_value, watch.e_limit) == (None, 0, None, None)
    assert (watch.audited, watch.policy_version) == (60, 1)
    assert watch.loss <= watch.bound < 1


def test_a_regression_has_no_labels_to_compare():
    served = Served(fake_network.network())
    served.submit(fake_network.rows(9))
    served.finish()
    assert (served.watch.audited, served.watch.bound, sum(served.watch.exits)) == (0, None, 9)
    assert served.watch.epistemic == 1.0


def test_examples_without_a_prediction_at_the_last_exit_are_left_out():
    served = Served()
    x = stopping_at([0, 0, 1, 2, 0])
    x[1, 2], x[2, 2], x[3, 2] = FAILS, NAN, NAN
    served.submit(x)
    served.finish()
    (outcome,) = served.outcomes.values()
    assert [error.position for error in outcome.errors] == [3]
    assert (served.watch.audited, served.watch.loss, served.watch.waiting) == (2, 0.0, 0)
    assert served.watch.exits == (3, 1, 0)


def test_cancelled_requests_are_left_out_and_hold_nothing_up():
    served = Served(max_audit_rows=4)
    gone = served.submit(stopping_at([0, 2, 2]))
    served.step()
    served.core.cancel(gone, served.now)
    served.submit(stopping_at([2]))
    assert served.watch.skipped == 0
    served.finish()
    assert (served.watch.audited, sum(served.watch.exits), served.watch.waiting) == (1, 1, 0)


def test_another_policy_starts_anew():
    served = Served()
    served.submit(stopping_at([0, 1], wrong=True))
    served.core.replace(SAFER)
    served.submit(stopping_at([1, 2]))
    served.finish()
    watch = served.watch
    assert (watch.policy_version, watch.step, watch.steps) == (2, 0, 2)
    assert (watch.audited, watch.loss, watch.exits) == (2, 0.0, (0, 1, 1))
    assert served.outcomes[0].policy is PROMISED


def test_audits_go_on_after_close_for_a_limited_time():
    served = Served()
    served.submit(stopping_at([0] * 3, wrong=True))
    served.core.close(served.now)
    served.finish()
    assert (served.watch.audited, served.core.scheduler.drained) == (3, True)
    late = Served()
    late.submit(stopping_at([0] * 3))
    late.step()
    late.core.close(late.now)
    late.now += AUDIT_SECONDS
    assert not late.step()
    assert (late.core.advance(), late.watch.audited, late.core.scheduler.load().auditing) == (False, 0, 0)


def test_running_thresholds_keep_the_cost():
    served = Served(network(POLICY, ()), share=0.0, track=True)
    generator = np.random.default_rng(0)
    for _ in range(40):
        x = stopping_at(np.zeros(50, dtype=int))
        x[:, 3:] = generator.normal(-3.0, size=(50, 2))  # below all frozen thresholds
        served.submit(x)
        served.finish()
        served.now += 1
    exits = np.concatenate([served.outcomes[i].answer.exit for i in range(20, 40)])
    shares = np.bincount(exits, minlength=3) / len(exits)
    # quantiles of windows of 500, and 1,000 examples: five standard errors
    assert (abs(shares - POLICY.shares) < 5 * np.sqrt(0.24 / 500 + 0.24 / 1000)).all()
    assert served.watch.exits_e_value is None
    assert served.core.watcher.policy is POLICY
    assert not served.core._tracked


def test_ten_thousand_requests_leave_nothing_behind():
    served = Served(share=0.02, max_rows=10**6)
    x = stream(10_000, loss=0.0)
    tickets = [served.submit(example) for example in one_by_one(x)]
    for ticket in tickets[::100]:
        served.core.cancel(ticket, served.now)
    served.finish()
    watcher, scheduler = served.core.watcher, served.core.scheduler
    assert len(served.outcomes) == 9900
    held = (watcher._open, watcher._watched, watcher._losses, watcher._exits, watcher._new_losses, watcher._new_exits)
    assert [len(some) for some in held] == [0] * 6
    assert (len(watcher._losses._known), len(watcher._exits._known), watcher._auditing) == (0, 0, 0)
    assert (scheduler.load().rows, len(scheduler._book), scheduler.load().auditing) == (0, 0, 0)
