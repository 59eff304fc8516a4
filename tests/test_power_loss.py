"""Whenever the power goes, and whatever was not synced is lost: the old or the new is there, and can be replaced."""

import shutil

import pytest

from suffice.storage import filesystem
from tests import faults, power
from tests.operations import OPERATIONS
from tests.test_faults import NEW, NEXT, OLD, names


@pytest.fixture(params=["exchanged", "renamed twice"])
def way(request, monkeypatch):
    if request.param == "renamed twice":
        monkeypatch.setattr(filesystem, "_rename_call", lambda: None)


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("SUFFICE_DATA", "")


def recorded(operation, folder, old):
    """What a write does to the disk."""
    folder.mkdir()
    if old is not None:
        operation.write(folder, old)
    recorder = power.Recorder(folder)
    with faults.noted(recorder):
        operation.write(folder, NEW)
    recorder.note("returned")
    return recorder


def faulty(operation, recorder, old, place, *, stride=1, enough=None):
    """States after which neither is there, or in which something stays behind, in words; and how many there are."""
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
def test_whenever_the_power_goes_the_old_or_the_new_is_there_in_a_sample_of_states(name, tmp_path, tried):
    operation = OPERATIONS[name]
    wrong, count = faulty(
        operation, recorded(operation, tmp_path / "disk", OLD), OLD, tmp_path / "state", stride=CASES[name]
    )
    assert count > 5
    assert wrong == []
    tried("states that a power loss can leave", count // CASES[name])


@pytest.mark.slow
@pytest.mark.parametrize("old", [OLD, None], ids=["replaced", "new"])
@pytest.mark.parametrize("name", [name for name in OPERATIONS if name != "record"])
def test_whenever_the_power_goes_the_old_or_the_new_is_there(name, old, way, tmp_path, tried):
    operation = OPERATIONS[name]
    wrong, count = faulty(operation, recorded(operation, tmp_path / "disk", old), old, tmp_path / "state")
    assert count > 5
    assert wrong == []
    tried("states that a power loss can leave", count)


def test_a_missing_sync_would_be_noticed(tmp_path, monkeypatch):
    operation = OPERATIONS["save"]
    for number, name in enumerate(("sync_tree", "sync_folder")):
        with monkeypatch.context() as patch:
            patch.setattr(filesystem, name, lambda path: None)
            recorder = recorded(operation, tmp_path / f"{number}", OLD)
        assert faulty(operation, recorder, OLD, tmp_path / "state", enough=1)[0] != []
