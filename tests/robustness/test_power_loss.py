"""After a power loss at any moment, the old or the new version is there and can be replaced."""

import shutil

import pytest

from suffice.storage import filesystem
from tests.robustness import faults, power
from tests.robustness.operations import OPERATIONS
from tests.robustness.test_faults import NEW, NEXT, OLD, names


@pytest.fixture(params=["exchanged", "renamed twice"])
def way(request, monkeypatch):
    if request.param == "renamed twice":
        monkeypatch.setattr(filesystem, "_rename_call", lambda: None)


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("SUFFICE_DATA", "")


def recorded(operation, folder, old):
    """Return a recording of a write."""
    folder.mkdir()
    if old is not None:
        operation.write(folder, old)
    recorder = power.Recorder(folder)
    with faults.recorded(recorder):
        operation.write(folder, NEW)
    recorder.note("returned")
    return recorder


def wrong_states(operation, recorder, old, place, *, stride=1, enough=None):
    """Describe the states that cannot be read or leave files behind, and return the number of all states."""
    seen, wrong = set(), []
    for moment in recorder.moments():
        last = moment == len(recorder.moments()) - 1
        for tree in recorder.states(moment):
            key = repr(sorted(tree.items())), last
            if key in seen:
                continue
            seen.add(key)
            if len(seen) % stride:
                continue
            power.put(tree, place)
            try:
                version = operation.read(place)
                if version not in ({NEW} if last else {old, NEW}):
                    wrong.append(f"{version} after {recorder.made[moment]}: {tree}")
                operation.write(place, NEXT)
                if operation.read(place) != NEXT or names(place) - operation.left - {"derived", "split-1.npz"}:
                    wrong.append(f"{names(place)} in the end, after {recorder.made[moment]}")
            except (OSError, ValueError) as error:
                wrong.append(f"{error} after {recorder.made[moment]}: {tree}")
            shutil.rmtree(place)
            if len(wrong) == enough:
                return wrong, len(seen)
    return wrong, len(seen)


CASES = {"save": 9, "ledger": 1, "import": 17}


@pytest.mark.parametrize("name", CASES)
def test_a_sample_of_power_losses_leaves_the_old_or_the_new_version(name, tmp_path, tried):
    operation = OPERATIONS[name]
    wrong, count = wrong_states(
        operation, recorded(operation, tmp_path / "disk", OLD), OLD, tmp_path / "state", stride=CASES[name]
    )
    assert count > 5
    assert wrong == []
    tried("states that a power loss can leave", count // CASES[name])


@pytest.mark.slow
@pytest.mark.parametrize("old", [OLD, None], ids=["replaced", "new"])
@pytest.mark.parametrize("name", [name for name in OPERATIONS if name != "record"])
def test_any_power_loss_leaves_the_old_or_the_new_version(name, old, way, tmp_path, tried):
    operation = OPERATIONS[name]
    wrong, count = wrong_states(operation, recorded(operation, tmp_path / "disk", old), old, tmp_path / "state")
    assert count > 5
    assert wrong == []
    tried("states that a power loss can leave", count)


def test_a_missing_sync_is_detected(tmp_path, monkeypatch):
    operation = OPERATIONS["save"]
    for number, name in enumerate(("sync_tree", "sync_folder")):
        with monkeypatch.context() as patch:
            patch.setattr(filesystem, name, lambda path: None)
            recorder = recorded(operation, tmp_path / f"{number}", OLD)
        assert wrong_states(operation, recorder, OLD, tmp_path / "state", enough=1)[0] != []
