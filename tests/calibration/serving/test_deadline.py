import math
import time

import pytest
import torch

from suffice.calibration.serving import deadline as module
from tests import builders

X = builders.inputs(20)


def network_of(exits=4):
    return builders.untuned(builders.network(widths=(6,) * exits), X)


class Clock:
    """A clock that every stage advances by its planned milliseconds."""

    def __init__(self, monkeypatch, calibrated, milliseconds):
        self.now = 100.0
        monkeypatch.setattr(module.time, "perf_counter", lambda: self.now)
        for stage, ms in zip(calibrated.network.stages, milliseconds, strict=True):
            stage.register_forward_hook(lambda *_, ms=ms: self.pass_(ms))

    def pass_(self, ms):
        self.now += ms / 1e3


@pytest.mark.parametrize("ensemble", ["average", "product", False])
def test_without_a_deadline_it_gives_every_answer_of_the_call(ensemble):
    calibrated = builders.untuned(builders.network(nested=True), X, ensemble=ensemble)
    for answer, expected in zip(calibrated.anytime(X), calibrated(X), strict=True):
        assert torch.equal(answer.log_probs, expected.log_probs)
        assert torch.equal(answer.agreeing, expected.agreeing)
        assert len(answer.members) == len(expected.members)


def test_no_exit_is_computed_before_it_is_requested():
    calibrated = network_of()
    seen = builders.watch_batch_sizes(calibrated.network)
    answers = calibrated.anytime(X)
    assert seen == []
    next(answers)
    assert [k for k, _ in seen] == [0]
    next(answers)
    answers.close()
    assert [k for k, _ in seen] == [0, 1]


def test_an_exit_is_computed_only_if_it_is_expected_in_time(monkeypatch):
    """Four exits of similar cost at 10 ms each; the first costs slightly more, so three fit into 31 ms."""
    calibrated = network_of()
    Clock(monkeypatch, calibrated, [10, 10, 10, 10])
    counts = {deadline: len(list(calibrated.anytime(X, deadline))) for deadline in (5, 15, 19, 31, 60)}
    assert counts[5] == counts[15] == 1
    assert counts[60] == 4
    assert counts[19] <= 2 <= counts[31] <= 3


def test_a_deadline_shorter_than_the_first_exit_still_has_its_answer(monkeypatch):
    calibrated = network_of()
    Clock(monkeypatch, calibrated, [1000, 1, 1, 1])
    (answer,) = calibrated.anytime(X, 1e-3)
    assert torch.equal(answer.log_probs, calibrated(X)[0].log_probs)


def test_the_time_that_the_caller_takes_counts(monkeypatch):
    calibrated = network_of()
    clock, answers = Clock(monkeypatch, calibrated, [10] * 4), 0
    for _ in calibrated.anytime(X, 60):
        answers += 1
        clock.pass_(45)
    assert answers == 1


def test_the_clock_starts_when_the_first_prediction_is_requested(monkeypatch):
    calibrated = network_of()
    clock = Clock(monkeypatch, calibrated, [10] * 4)
    answers = calibrated.anytime(X, 60)
    clock.pass_(1000)
    assert len(list(answers)) == 4


def test_a_real_deadline_is_kept_by_stages_that_sleep():
    calibrated = network_of()
    for stage in calibrated.network.stages:
        stage.register_forward_hook(lambda *_: time.sleep(0.1))
    started = time.perf_counter()
    answers = list(calibrated.anytime(X, 250))
    assert 1 <= len(answers) < 4
    assert time.perf_counter() - started < 0.35


@pytest.mark.parametrize("deadline", [0, -5, math.nan])
def test_a_deadline_that_is_no_time_is_refused_at_the_call(deadline):
    with pytest.raises(ValueError, match="expected a deadline above 0 milliseconds"):
        network_of().anytime(X, deadline)
