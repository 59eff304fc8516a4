import errno
import multiprocessing
import os
import shutil

import numpy as np
import pytest

from suffice.data.store import lookup
from suffice.data.store.writer import create_dataset
from suffice.utils.progress import quiet
from tests.data import miniatures


def fill(rows, blocks):
    """Write an array of that many rows in blocks of these sizes."""
    with create_dataset("things", quiet) as writer, writer.array("a", (rows,), np.uint8) as append:
        for block in blocks:
            append(np.zeros(block, np.uint8))


def fail(error):
    """Start an import that raises after it has written an array."""
    with create_dataset("things", quiet) as writer:
        writer.save("all_images", np.zeros((1, 2)), np.uint8)
        raise error


def test_an_array_that_is_not_filled_is_refused_and_nothing_is_left(store_folder):
    with pytest.raises(ValueError, match="expected 3 rows in a, got 1"):
        fill(3, [1])
    assert list(store_folder.iterdir()) == []


def test_an_array_that_is_overfilled_is_refused():
    with pytest.raises(ValueError, match="after 1 rows"):
        fill(2, [1, 2])


def test_an_import_that_fails_leaves_the_old_set_as_it_was(store_folder):
    miniatures.stored_array()
    with pytest.raises(KeyboardInterrupt):
        fail(KeyboardInterrupt())
    assert lookup.find("things").manifest["parts"] == {"all": 6}
    assert [f.name for f in store_folder.iterdir()] == ["things"]


def _killed():
    with create_dataset("things", quiet) as writer:
        writer.save("a", np.zeros(3), np.uint8)
        os._exit(9)


def test_what_a_killed_import_left_is_not_listed_and_the_next_import_removes_it(store_folder):
    process = multiprocessing.get_context("fork").Process(target=_killed)
    process.start()
    process.join()
    assert len(list(store_folder.glob(".things.suffice-*"))) == 2  # the temporary folder and the lock
    assert lookup.names() == []
    miniatures.stored_array()
    assert [f.name for f in store_folder.iterdir()] == ["things"]


def test_two_imports_of_a_name_do_not_run_at_once():
    with create_dataset("things", quiet) as writer:
        writer.save("a", np.zeros(1), np.uint8)
        with (
            pytest.raises(BlockingIOError, match=r"another process or thread is writing .*things; wait"),
            create_dataset("things", quiet),
        ):
            pass


def test_a_disk_that_is_too_full_is_refused_before_anything_is_written(monkeypatch, store_folder):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(OSError, match=rf"0.60 GB on the disk of {store_folder}, found 0.00 GB free; free some"):
        fill(600_000_000, [])
    assert lookup.names() == []


def test_a_disk_that_fills_up_on_the_way_is_one_clear_message():
    with pytest.raises(OSError, match=r"more space on the disk of .* GB free") as caught:
        fail(OSError(errno.ENOSPC, "No space left on device"))
    assert str(caught.value).startswith("expected more space")
    assert lookup.names() == []
