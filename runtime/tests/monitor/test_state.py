import json

import numpy as np
import pytest

from suffice_runtime.monitor import (
    LossAlarm,
    LossDetector,
    MeanBounds,
    ShareAlarm,
    StepBack,
    from_dict,
    to_dict,
    watch_exits,
    watch_values,
)

GENERATOR = np.random.default_rng(0)
LOSSES = (GENERATOR.random(300) < 0.2).astype(float)
EXITS = GENERATOR.choice(3, 300)


def updated(state, values):
    if isinstance(state, StepBack):
        return state.update(values, step=state.step)
    if hasattr(state, "cuts"):
        return state.update(values, generator=np.random.default_rng(1))
    return state.update(values)


STATES = {
    "bounds": (MeanBounds.start(), LOSSES),
    "streams": (MeanBounds.start((2, 3)), np.broadcast_to(LOSSES[:, None, None], (300, 2, 3))),
    "alarm": (LossAlarm.start(0.1, 0.05), LOSSES),
    "detector": (LossDetector.start(0.1, 1000), LOSSES),
    "steps": (StepBack.start(4, 0.1, 0.05), LOSSES),
    "shares": (ShareAlarm.start([0.3, 0.3, 0.4], 0.05, 0.05), EXITS),
    "exits": (watch_exits(EXITS, 3, 0.05), EXITS),
    "values": (watch_values(GENERATOR.normal(size=300), 0.05), GENERATOR.normal(size=300)),
}


@pytest.mark.parametrize("name", STATES)
def test_a_restored_state_goes_on_as_if_it_had_not_been_stopped(name):
    state, values = STATES[name]
    for stopped in (state, updated(state, values[:150])):
        restored = from_dict(json.loads(json.dumps(to_dict(stopped), allow_nan=False)))
        assert type(restored) is type(stopped)
        assert to_dict(restored) == to_dict(stopped)
        assert to_dict(updated(restored, values[150:])) == to_dict(updated(stopped, values[150:]))


def change(data, path, value):
    *parents, last = path.split(".")
    for parent in parents:
        data = data[parent]
    data[last] = value


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("version", 0, "expected a state of version 1, got 0; start a new one"),
        ("kind", "Capital", "expected a state of a kind in .*, got 'Capital'"),
        ("more", 1, "expected the fields .* of LossAlarm, got"),
        ("max_loss", 2.0, "expected max_loss between 0 and 1, got 2.0"),
        ("max_loss", "0.1", "expected LossAlarm.max_loss as finite numbers, got '0.1'"),
        ("evidence", 1, "expected LossAlarm.evidence as a dictionary of the kind 'EProcess', got 1"),
        ("evidence.peak", float("nan"), "expected EProcess.peak as finite numbers"),
        ("evidence.alpha", [0.1], r"expected EProcess.alpha as one float, got \[0.1\]"),
        ("evidence.alarm", 1.5, "expected EProcess.alarm as whole numbers, got 1.5"),
        ("evidence.capital.count", 1.5, "expected Capital.count as one int, got 1.5"),
        ("evidence.capital.capital", [1.0, 2.0], r"expected capital of shape \(41,\), at least 0, got \(2,\)"),
        ("evidence.capital.capital", [[1.0], [2.0, 3.0]], "expected Capital.capital as finite numbers"),
    ],
)
def test_a_state_that_was_changed_is_refused(path, value, message):
    data = json.loads(json.dumps(to_dict(LossAlarm.start(0.1, 0.05))))
    change(data, path, value)
    with pytest.raises(ValueError, match=message):
        from_dict(data)


@pytest.mark.parametrize(
    ("name", "path", "value", "message"),
    [
        ("bounds", "above", [0.0], "expected sums of shape"),
        ("steps", "step", 1, "expected step 0 after 0 alarms, got 1"),
        ("steps", "alarms", [0.5], "expected StepBack.alarms as whole numbers"),
        ("shares", "bounds", [0.5, 0.5], r"expected bounds of shape \(6,\), two for each exit, got \(2,\)"),
        ("shares", "bounds", [2.0] * 6, r"expected bounds in \(0, 1\]"),
        ("exits", "counts", [1, 2], "expected counts of 3 bins"),
        ("exits", "cuts", [0.5], "expected 2 cuts or none, got 1"),
    ],
)
def test_every_kind_of_state_is_checked(name, path, value, message):
    data = json.loads(json.dumps(to_dict(STATES[name][0])))
    change(data, path, value)
    with pytest.raises(ValueError, match=message):
        from_dict(data)
