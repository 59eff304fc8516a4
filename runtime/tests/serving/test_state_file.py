import json
import threading

import numpy as np
import pytest

from serving.labeled import PROMISED, as_runner, network, stopping_at, stream
from serving.test_watcher import Served, one_by_one
from suffice_runtime.serving import state as states
from suffice_runtime.serving.state import StateFile

SOON = 10.0

ALARM = {"kind": "loss", "policy_version": 1, "observations": 3, "time": 1.0}


def serve(served, x):
    for example in one_by_one(x):
        served.submit(example)
        served.finish()
        served.now += 1.0


@pytest.mark.parametrize("loss", [0.05, 0.7])
def test_a_restored_watch_goes_on_as_if_it_had_not_been_stopped(tmp_path, loss):
    file, x = StateFile(tmp_path / "state.json"), stream(60, loss)
    whole, first, second = Served(), Served(), Served()
    serve(whole, x)
    serve(first, x[:30])
    file.write(file.payload(first.core.watcher))
    second.core.restore(file)
    assert second.core.scheduler.policy.thresholds.tolist() == first.core.scheduler.policy.thresholds.tolist()
    serve(second, x[30:])
    one, other = whole.watch, second.watch
    assert one.step == (2 if loss > 0.1 else 0)
    for name in ("step", "steps", "e_value", "e_limit", "audited", "loss", "bound", "exits", "exits_e_value", "cost"):
        assert getattr(one, name) == getattr(other, name), name
    assert [alarm.observations for alarm in one.alarms] == [alarm.observations for alarm in other.alarms]


def test_an_engine_saves_its_state_when_it_is_closed_and_goes_on(started, tmp_path):
    file = tmp_path / "state.json"
    engine = started(as_runner(network()), audit_share=1.0, state=file)
    futures = [engine.submit(example) for example in one_by_one(stream(20, loss=0.0))]
    assert all(len(future.result(SOON).answer) == 1 for future in futures)
    assert engine.close(SOON)
    assert engine.watch().audited == 20
    again = started(as_runner(network()), audit_share=1.0, state=file)
    assert again.watch().audited == 20
    again.submit(stopping_at([2])).result(SOON)
    assert again.close(SOON)
    assert started(as_runner(network()), state=file).watch().audited == 21
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]


def test_a_state_is_saved_from_time_to_time(started, tmp_path, monkeypatch):
    monkeypatch.setattr(states.Keeper.__init__, "__defaults__", (0.01,))
    file = tmp_path / "state.json"
    engine = started(as_runner(network()), audit_share=1.0, state=file)
    engine.submit(stopping_at([2])).result(SOON)
    for _ in range(1000):
        if file.exists():
            break
        engine._keeper._closing.wait(0.01)
    assert json.loads(file.read_text())["evidence"]["bounds"]["count"] == 1


def test_the_state_of_another_policy_is_not_used(tmp_path):
    file, served = StateFile(tmp_path / "state.json"), Served()
    serve(served, stream(10, loss=0.0))
    file.write(file.payload(served.core.watcher))
    other = Served(network(PROMISED, ()))  # a sequence of two policies in place of three
    other.core.restore(file)
    assert other.watch.audited == 0
    same = Served()
    same.core.restore(file)
    assert same.watch.audited == 10


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.update(version=0),
        lambda data: data.pop("evidence"),
        lambda data: data["evidence"].update(bounds=3),
        lambda data: data["evidence"].update(steps=None),
        lambda data: data["evidence"].update(exits=[1, 2]),
        lambda data: data["evidence"].update(costs=[1]),
        lambda data: data["evidence"]["steps"].update(policies=2),
        lambda data: data.update(alarms=[{"kind": "loss"}]),
        lambda data: data.update(alarms=[{**ALARM, "time": float("nan")}]),
        lambda data: data.update(alarms=[{**ALARM, "kind": "other"}]),
        lambda data: data.update(alarms=[{**ALARM, "observations": "x"}]),
        lambda data: data["evidence"].update(epistemic=10**400),
        lambda data: data["evidence"]["shares"]["evidence"].update(alpha=-1.0),
        lambda data: data["evidence"]["shares"]["evidence"].update(alarm=[]),
        lambda data: data["evidence"]["steps"]["watched"]["evidence"].update(alpha=0),
    ],
)
def test_a_damaged_state_is_refused(tmp_path, change):
    path, served = tmp_path / "state.json", Served()
    file = StateFile(path)
    serve(served, stream(3, loss=0.0))
    data = json.loads(file.payload(served.core.watcher))
    change(data)
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=r"expected the state of an engine at .*state\.json, got a damaged one"):
        Served().core.restore(file)


@pytest.mark.parametrize("payload", [b"\xff\xfe{", b"[" * 100_000, b"", b"\0" * 4096])
def test_bytes_that_are_no_state_are_refused(tmp_path, payload):
    path = tmp_path / "state.json"
    path.write_bytes(payload)
    with pytest.raises(ValueError, match="got a damaged one"):
        Served().core.restore(StateFile(path))


def test_a_folder_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected a folder at .*nowhere for the state"):
        StateFile(tmp_path / "nowhere" / "state.json")


def test_a_state_that_cannot_be_written_is_logged(tmp_path, caplog):
    folder = tmp_path / "state.json"
    folder.mkdir()
    StateFile(folder).write(b"{}")
    assert "could not be written" in caplog.text


def test_a_state_that_could_not_be_written_is_tried_again(tmp_path):
    path, looks, again = tmp_path / "state.json", iter([b"{}"]), threading.Event()
    path.mkdir()

    def take():
        if (payload := next(looks, None)) is None:
            again.set()  # the first one was tried
        return payload

    keeper = states.Keeper(StateFile(path), take, seconds=0.01)
    assert again.wait(SOON)
    path.rmdir()  # as a disk that has room again, while no request comes
    keeper.close()
    assert path.read_bytes() == b"{}"


def test_different_policies_have_different_hashes():
    other = [PROMISED.thresholds + 1, PROMISED.shares[::-1]]
    found = {
        states.digest([PROMISED]),
        states.digest([PROMISED, PROMISED]),
        states.digest([PROMISED.__class__(**{**PROMISED.__dict__, "thresholds": other[0]})]),
        states.digest([PROMISED.__class__(**{**PROMISED.__dict__, "shares": np.array(other[1])})]),
    }
    assert len(found) == 4
