"""Readers beside writers: every read returns one complete version, and no files are left behind."""

import multiprocessing
import time
import traceback

import pytest

from suffice.storage import filesystem
from tests.robustness.operations import OPERATIONS
from tests.robustness.test_faults import names

CONTEXT = multiprocessing.get_context("fork")
READ = "reads beside four writers"
SAVED = ["save", "ledger", "results", "import"]


def write(name, folder, versions, queue):
    try:
        for version in versions:
            while True:
                try:
                    OPERATIONS[name].write(folder, version)
                    break
                except BlockingIOError:  # imports do not wait for each other
                    time.sleep(0.001)
        queue.put("written")
    except BaseException:
        queue.put(traceback.format_exc())


def read(name, folder, over, queue):
    try:
        count = 0
        while not over.is_set():
            assert OPERATIONS[name].read(folder) is not None
            count += 1
        queue.put(count)
    except BaseException:
        queue.put(traceback.format_exc())


def beside(name, folder, writes, writers=4, readers=2):
    """Return the outcome of each writer and the number of reads of each reader."""
    queue, over = CONTEXT.Queue(), CONTEXT.Event()
    writing = [
        CONTEXT.Process(target=write, args=(name, folder, range(w, w + writers * writes, writers), queue))
        for w in range(2, 2 + writers)
    ]
    reading = [CONTEXT.Process(target=read, args=(name, folder, over, queue)) for _ in range(readers)]
    for process in writing + reading:
        process.start()
    for process in writing:
        process.join()
    over.set()
    outcomes = [queue.get(timeout=60) for _ in writing + reading]
    for process in reading:
        process.join()
    return sorted(map(str, outcomes), key=str.isdigit)


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("SUFFICE_DATA", "")


def check(name, folder, writes):
    """Run four writers beside two readers, and return the number of reads."""
    OPERATIONS[name].write(folder, 1)
    *written, first, second = beside(name, folder, writes)
    assert written == ["written"] * 4
    assert names(folder) - OPERATIONS[name].left <= {"derived", "split-1.npz"}
    assert OPERATIONS[name].read(folder) > 1
    return int(first) + int(second)


@pytest.mark.parametrize("name", SAVED)
def test_a_reader_beside_writers_always_finds_one_version(name, tmp_path, tried):
    tried(READ, check(name, tmp_path, 4))


@pytest.mark.slow
@pytest.mark.parametrize("way", ["exchanged", "renamed twice"])
@pytest.mark.parametrize("name", SAVED)
def test_a_reader_beside_writers_always_finds_one_version_for_a_while(name, way, tmp_path, monkeypatch, tried):
    if way == "renamed twice":
        monkeypatch.setattr(filesystem, "_rename_call", lambda: None)
    tried(READ, check(name, tmp_path, 100))


@pytest.mark.parametrize("name", ["save", "results", "ledger"])
def test_concurrent_writers_of_a_new_path_all_succeed(name, tmp_path):
    for trial in range(3):
        assert beside(name, tmp_path / f"{trial}", 1, readers=0) == ["written"] * 4
        assert names(tmp_path / f"{trial}") == OPERATIONS[name].left
