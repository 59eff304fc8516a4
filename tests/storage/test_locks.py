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
from tests import faults

CONTEXT = multiprocessing.get_context("fork")


def count(target, counter, times):
    """Add to a number in a file; without a lock, additions get lost."""
    for _ in range(times):
        with locked(target):
            value = int(counter.read_text())
            time.sleep(0.0002)
            counter.write_text(str(value + 1))


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a folder in which no file can be made")
def test_where_no_file_can_be_made_nobody_waits():
    with pytest.raises(FileNotFoundError), locked(Path("/proc/self/x")):
        pass


@pytest.mark.parametrize("kind", [CONTEXT.Process, threading.Thread])
def test_one_is_in_the_block_at_a_time_though_each_removes_the_lock(tmp_path, kind):
    counter = tmp_path / "counter"
    counter.write_text("0")
    workers = [kind(target=count, args=(tmp_path / "t", counter, 40)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert counter.read_text() == "160"
    assert os.listdir(tmp_path) == ["counter"]


def test_who_does_not_wait_is_refused_while_another_process_is_inside(tmp_path):
    inside, leave = CONTEXT.Event(), CONTEXT.Event()

    def stay():
        with locked(tmp_path / "t"):
            inside.set()
            leave.wait()

    process = CONTEXT.Process(target=stay)
    process.start()
    inside.wait()
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


def test_a_lock_that_a_kill_left_locks_nothing_and_goes(tmp_path):
    def killed():
        with locked(tmp_path / "t"):
            os.kill(os.getpid(), signal.SIGKILL)

    faults.in_fork(killed)
    assert os.listdir(tmp_path) == [paths.lock_path(tmp_path / "t").name]
    with locked(tmp_path / "t", False):
        pass
    assert os.listdir(tmp_path) == []


def test_a_link_in_the_place_of_the_lock_is_not_followed(tmp_path):
    (tmp_path / "mine").write_text("mine")
    paths.lock_path(tmp_path / "t").symlink_to("mine")
    with pytest.raises(OSError, match="symbolic link"), locked(tmp_path / "t"):
        pass
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_lock_is_released_where_the_system_will_not_hear_of_it_at_first(tmp_path, monkeypatch):
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
