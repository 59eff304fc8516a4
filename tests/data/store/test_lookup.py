import errno
import json
import multiprocessing
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from suffice.data.store import lookup
from suffice.data.store.writer import create_dataset
from suffice.storage import manifests
from suffice.utils.progress import quiet


def fill(rows, blocks):
    """Write an array of so many rows in blocks."""
    with create_dataset("things", quiet) as writer, writer.array("a", (rows,), np.uint8) as append:
        for block in blocks:
            append(np.zeros(block, np.uint8))


def fail(error):
    """An import that fails once it has written something."""
    with create_dataset("things", quiet) as writer:
        writer.save("all_images", np.zeros((1, 2)), np.uint8)
        raise error


def make(name="things", rows=6):
    with create_dataset(name, quiet) as writer:
        with writer.array("all_images", (rows, 2), np.uint8) as append:
            append(np.arange(4, dtype=np.uint8).reshape(2, 2))
            append(np.arange(2 * rows - 4, dtype=np.uint8).reshape(-1, 2))
        writer.manifest["parts"] = {"all": rows}
    return lookup.find(name)


def test_what_was_written_is_found_memory_mapped_with_its_facts():
    made = make()
    array = made.array("all_images")
    assert isinstance(array, np.memmap)
    assert array.tolist() == [[0, 1], [2, 3], [0, 1], [2, 3], [4, 5], [6, 7]]
    assert made.manifest["parts"] == {"all": 6}
    assert made.size == os.path.getsize(made.folder / "all_images.npy")
    assert lookup.names() == ["things"]
    assert lookup.damaged_files(made) == []


def test_what_is_written_to_an_array_does_not_reach_the_disk():
    made = make()
    made.array("all_images")[0] = 99
    assert made.array("all_images")[0].tolist() == [0, 1]


def test_a_set_that_is_not_there_is_an_error_with_its_name(store_folder):
    with pytest.raises(
        lookup.NotStoredError, match=rf"'cifar10' in {store_folder}, found none; point SUFFICE_DATA"
    ) as seen:
        lookup.find("cifar10")
    assert seen.value.name == "cifar10"


def test_a_truncated_file_is_refused_and_a_changed_one_when_it_is_opened_or_looked_for():
    made = make()
    file = made.folder / "all_images.npy"
    data = file.read_bytes()
    file.write_bytes(data[:-1] + b"x")
    assert lookup.damaged_files(lookup.find("things")) == ["all_images.npy"]
    with pytest.raises(ValueError, match=r"expected .*all_images.npy with SHA-256 .* changed since the import"):
        lookup.find("things").array("all_images")
    file.write_bytes(data[:-1])
    with pytest.raises(ValueError, match=rf"with {len(data)} bytes, got {len(data) - 1}; import things again"):
        lookup.find("things")


def test_an_edited_manifest_is_refused():
    file = make().folder / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["parts"]["all"] = 7
    file.write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="was changed; move it away and import it again"):
        lookup.find("things")


@pytest.mark.parametrize(
    "entries",
    [
        {"../secret": {"bytes": 0, "sha256": ""}},
        {"/etc/hostname": {"bytes": 0, "sha256": ""}},
        {"": {"bytes": 0, "sha256": ""}},
        {"..": {"bytes": 0, "sha256": ""}},
        {"a.npy": 1},
        {"a.npy": {"bytes": "1", "sha256": ""}},
        {"a.npy": {"bytes": 1}},
        {"a\0.npy": {"bytes": 1, "sha256": ""}},
    ],
)
def test_a_manifest_that_no_import_writes_is_refused_though_its_digest_is_right(entries):
    folder = make().folder
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest.pop("manifest_sha256")
    manifests.write_manifest(folder, {**manifest, "files": entries})
    with pytest.raises(ValueError, match=r"expected files by name with bytes and sha256 in .*/things, got"):
        lookup.find("things")


def test_an_array_that_is_not_filled_is_refused_and_nothing_is_left(store_folder):
    with pytest.raises(ValueError, match="expected 3 rows in a, got 1"):
        fill(3, [1])
    assert list(store_folder.iterdir()) == []


def test_an_array_that_is_overfilled_is_refused():
    with pytest.raises(ValueError, match="after 1 rows"):
        fill(2, [1, 2])


def test_an_import_that_fails_leaves_the_old_set_as_it_was(store_folder):
    make()
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
    assert len(list(store_folder.glob(".things.suffice-*"))) == 2  # what was written, and the lock
    assert lookup.names() == []
    make()
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


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "Big", "x" * 65])
def test_a_name_that_could_not_be_a_folder_is_refused(name):
    with pytest.raises(ValueError, match="expected a name"):
        lookup.find(name)


def test_what_is_derived_is_made_once_and_recorded():
    made, calls = make(), []

    def draw():
        calls.append(1)
        return {"rows": np.arange(3)}

    first, second = made.derived("split-1", draw), made.derived("split-1", draw)
    assert len(calls) == 1
    assert first["rows"].tolist() == second["rows"].tolist() == [0, 1, 2]
    assert os.listdir(made.folder / "derived") == ["split-1.npz"]


def test_a_damaged_record_is_refused_by_its_name():
    made = make()
    made.derived("split-1", lambda: {"rows": np.arange(3)})
    (made.folder / "derived" / "split-1.npz").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"damaged .*split-1.npz; remove it"):
        made.derived("split-1", dict)


def test_in_a_store_that_cannot_be_written_to_nothing_is_recorded(monkeypatch):
    made = make()

    def refuse(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert made.derived("x", lambda: {"rows": np.arange(3)})["rows"].tolist() == [0, 1, 2]
    assert not (made.folder / "derived").exists()
