import fcntl
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from suffice.storage import paths
from suffice.storage.locks import locked
from tests.robustness import faults

CONTEXT = multiprocessing.get_context("fork")


def count(target, counter, times):
    """Increment a number in a file; without the lock, increments get lost."""
    for _ in range(times):
        with locked(target):
            value = int(counter.read_text())
            time.sleep(0.0002)
            counter.write_text(str(value + 1))


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a folder in which no file can be created")
def test_a_lock_that_cannot_be_created_is_an_error_at_once():
    with pytest.raises(FileNotFoundError), locked(Path("/proc/self/x")):
        pass


@pytest.mark.parametrize("kind", [CONTEXT.Process, threading.Thread])
def test_one_worker_holds_the_lock_at_a_time_though_each_removes_its_file(tmp_path, kind):
    counter = tmp_path / "counter"
    counter.write_text("0")
    workers = [kind(target=count, args=(tmp_path / "t", counter, 40)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert counter.read_text() == "160"
    assert os.listdir(tmp_path) == ["counter"]


def test_without_waiting_a_lock_held_by_another_process_is_an_error(tmp_path):
    entered, leave = CONTEXT.Event(), CONTEXT.Event()

    def hold():
        with locked(tmp_path / "t"):
            entered.set()
            leave.wait(60)

    process = CONTEXT.Process(target=hold)
    process.start()
    entered.wait()
    with (
        pytest.raises(BlockingIOError, match=f"another process or thread is writing {tmp_path}/t; wait"),
        locked(tmp_path / "t", False),
    ):
        pass
    with locked(tmp_path / "other", False):
        pass
    leave.set()
    process.join()
    with locked(tmp_path / "t", False):
        pass


def test_the_lock_file_of_a_killed_process_locks_nothing_and_is_removed(tmp_path):
    def killed():
        with locked(tmp_path / "t"):
            os.kill(os.getpid(), signal.SIGKILL)

    faults.in_fork(killed)
    assert os.listdir(tmp_path) == [paths.lock_path(tmp_path / "t").name]
    with locked(tmp_path / "t", False):
        pass
    assert os.listdir(tmp_path) == []


def test_a_link_with_the_name_of_the_lock_is_not_followed(tmp_path):
    (tmp_path / "mine").write_text("mine")
    paths.lock_path(tmp_path / "t").symlink_to("mine")
    with pytest.raises(OSError, match="symbolic link"), locked(tmp_path / "t"):
        pass
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_release_that_fails_once_is_tried_again(tmp_path, monkeypatch):
    flock, refused = fcntl.flock, []

    def refuse_once(descriptor, how):
        if how == fcntl.LOCK_UN and not refused:
            refused.append(descriptor)
            raise OSError(5, "Input/output error")
        flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", refuse_once)
    for _ in range(2):
        with locked(tmp_path / "t", False):
            pass
    assert refused
    assert os.listdir(tmp_path) == []
