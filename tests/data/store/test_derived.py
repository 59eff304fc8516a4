import os
import pickle

import numpy as np
import pytest

from suffice.data.store import derived, lookup
from suffice.data.store.writer import create_dataset
from suffice.utils.progress import quiet


def made(value=0):
    with create_dataset("things", quiet) as writer:
        writer.save("a", np.full(3, value), np.int64)
    return lookup.find("things")


def test_a_record_of_another_import_is_made_anew(store_folder):
    old = made(1)
    assert old.derived("x", lambda: {"of": np.array(1)})["of"] == 1
    kept = (old.folder / "derived" / "x.npz").read_bytes()
    new = made(2)
    assert not (new.folder / "derived").exists()
    (new.folder / "derived").mkdir()
    (new.folder / "derived" / "x.npz").write_bytes(kept)  # by a process that had started earlier
    assert new.derived("x", lambda: {"of": np.array(2)})["of"] == 2
    assert new.derived("x", lambda: pytest.fail("made again"))["of"] == 2


def test_a_record_from_before_imports_were_told_apart_is_kept():
    """Check that a cached split is independent of the NumPy version that computed it."""
    stored = made()
    (stored.folder / "derived").mkdir()
    np.savez(stored.folder / "derived" / "x.npz", of=np.array(7))
    assert stored.derived("x", lambda: pytest.fail("made again"))["of"] == 7


def test_of_two_that_make_a_record_at_once_both_use_the_first():
    stored = made()

    def overtaken():
        stored.derived("x", lambda: {"of": np.array(1)})
        return {"of": np.array(2)}

    assert stored.derived("x", overtaken)["of"] == 1


def test_a_record_that_another_puts_there_under_another_lock_stays(monkeypatch):
    """Check that two processes agree although the folder was replaced in between."""
    stored, savez = made(), np.savez

    def overtaken(stream, **arrays):
        savez(stored.folder / "derived" / "x.npz", of=np.array(1))
        savez(stream, **arrays)

    monkeypatch.setattr(np, "savez", overtaken)
    assert stored.derived("x", lambda: {"of": np.array(2)})["of"] == 2
    assert stored.derived("x", lambda: pytest.fail("made again"))["of"] == 1


def test_a_set_that_is_removed_meanwhile_is_not_made_again(store_folder):
    stored = made()

    def removes():
        for file in stored.folder.iterdir():
            file.unlink()
        stored.folder.rmdir()
        return {"of": np.array(1)}

    assert stored.derived("x", removes)["of"] == 1
    assert os.listdir(store_folder) == []


def test_what_is_no_record_is_refused_by_name():
    stored = made()
    (stored.folder / "derived").mkdir()
    os.mkfifo(stored.folder / "derived" / "x.npz")
    with pytest.raises(ValueError, match=r"expected a file, got a FIFO at .*/x.npz"):
        stored.derived("x", dict)
    (stored.folder / "derived" / "y.npz").write_bytes(pickle.dumps([1]))
    with pytest.raises(ValueError, match=r"damaged .*/y.npz; remove it"):
        stored.derived("y", dict)


def test_a_record_keeps_its_arrays_and_nothing_else():
    stored = made()
    for _ in range(2):
        assert stored.derived("x", lambda: {"a": np.arange(3)}).keys() == {"a"}
    assert derived.FOLDER in os.listdir(stored.folder)
