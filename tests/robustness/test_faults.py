"""At whichever system call a write fails or is killed, the old or the new version is there, and nothing else."""

import os
import shutil
import signal

import pytest

from suffice.storage import filesystem
from tests.robustness import faults
from tests.robustness.operations import OPERATIONS, Operation

OLD, NEW, NEXT = 11, 12, 13
FAILED, KILLED = "calls failed in turn", "calls at which the process was killed"


@pytest.fixture(params=["exchanged", "renamed twice"])
def way(request, monkeypatch):
    """Replace folders by an exchange, or by two renames as on systems without it."""
    if request.param == "renamed twice":
        monkeypatch.setattr(filesystem, "_rename_call", lambda: None)


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("SUFFICE_DATA", "")  # operations set it; monkeypatch restores it


def names(folder):
    return {name for _, folders, files in os.walk(folder) for name in folders + files}


def descriptors():
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


def check(operation: Operation, folder, old, *, returned, what):
    """Check that the old or the new version can be read after a fault, and that the next write leaves nothing else."""
    version = operation.read(folder)
    assert version in ({NEW} if returned else {old, NEW}), what
    operation.write(folder, NEXT)
    assert operation.read(folder) == NEXT, what
    extra = names(folder) - operation.left
    assert extra <= {"derived", "split-1.npz"}, what  # reading writes derived arrays


def prepared(operation, folder, first):
    folder.mkdir()
    if not first:
        operation.write(folder, OLD)
    return None if first else OLD


def steps(stride):
    n = 1
    while True:
        yield n
        n += stride


def every_fault(operation, tmp_path, strike, first, stride, expected):
    """Inject a fault at each call in turn, and return the number of calls."""
    for n in steps(stride):
        folder = tmp_path / f"{n}"
        old = prepared(operation, folder, first)
        before = descriptors()
        returned = False
        with faults.at(n, strike) as calls:
            try:
                operation.write(folder, NEW)
                returned = True
            except expected:
                pass
        assert descriptors() == before, calls.made[-3:]
        if not calls.struck:
            assert n > stride
            break
        check(operation, folder, old, returned=returned, what=f"call {n}, {calls.made[n - 1]}")
        shutil.rmtree(folder)
    return n // stride


def every_death(operation, tmp_path, first, stride):
    """Kill a process at each call in turn, and return the number of calls."""
    for n in steps(stride):
        folder = tmp_path / f"{n}"
        old = prepared(operation, folder, first)

        def work(n=n, folder=folder):
            with faults.at(n, faults.die):
                operation.write(folder, NEW)

        status = faults.in_fork(work)
        if status == 0:
            assert n > stride
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
        check(operation, folder, old, returned=False, what=f"call {n}")
        shutil.rmtree(folder)
    return n // stride


WRITERS = [name for name in OPERATIONS if name != "record"]
EACH = pytest.mark.parametrize("name", WRITERS)
FIRST = pytest.mark.parametrize("first", [False, True], ids=["replaced", "new"])
STRIKES = {
    "an error": (faults.fail, OSError),
    "a full disk": (faults.full, OSError),
    "Ctrl-C": (faults.interrupt, KeyboardInterrupt),
}


@EACH
def test_an_error_at_a_sample_of_calls_leaves_the_old_or_the_new_version(name, tmp_path, tried):
    tried(FAILED, every_fault(OPERATIONS[name], tmp_path, faults.fail, False, 13, OSError))


@EACH
def test_a_kill_at_a_sample_of_calls_leaves_the_old_or_the_new_version(name, tmp_path, tried):
    tried(KILLED, every_death(OPERATIONS[name], tmp_path, False, 17))


@pytest.mark.slow
@pytest.mark.parametrize("strike", STRIKES)
@FIRST
@EACH
def test_an_error_at_any_call_leaves_the_old_or_the_new_version(name, first, strike, way, tmp_path, tried):
    tried(FAILED, every_fault(OPERATIONS[name], tmp_path, STRIKES[strike][0], first, 1, STRIKES[strike][1]))


@pytest.mark.slow
@FIRST
@EACH
def test_a_kill_at_any_call_leaves_the_old_or_the_new_version(name, first, way, tmp_path, tried):
    tried(KILLED, every_death(OPERATIONS[name], tmp_path, first, 1))
