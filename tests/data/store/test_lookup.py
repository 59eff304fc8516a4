import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest

from suffice.data.store import lookup
from suffice.storage import manifests
from tests.data import miniatures


def test_a_written_set_is_found_memory_mapped_with_its_manifest():
    made = miniatures.stored_array()
    array = made.array("all_images")
    assert isinstance(array, np.memmap)
    assert array.tolist() == [[0, 1], [2, 3], [0, 1], [2, 3], [4, 5], [6, 7]]
    assert made.manifest["parts"] == {"all": 6}
    assert made.size == os.path.getsize(made.folder / "all_images.npy")
    assert lookup.names() == ["things"]
    assert lookup.damaged_files(made) == []


def test_writes_to_an_array_do_not_reach_the_disk():
    made = miniatures.stored_array()
    made.array("all_images")[0] = 99
    assert made.array("all_images")[0].tolist() == [0, 1]


def test_a_set_that_is_not_there_is_an_error_with_its_name(store_folder):
    with pytest.raises(
        lookup.NotStoredError, match=rf"'cifar10' in {store_folder}, found none; point SUFFICE_DATA"
    ) as seen:
        lookup.find("cifar10")
    assert seen.value.name == "cifar10"


def test_a_truncated_file_is_refused_and_a_changed_one_when_it_is_opened_or_checked():
    made = miniatures.stored_array()
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
    file = miniatures.stored_array().folder / "manifest.json"
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
    folder = miniatures.stored_array().folder
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest.pop("manifest_sha256")
    manifests.write_manifest(folder, {**manifest, "files": entries})
    with pytest.raises(ValueError, match=r"expected files by name with bytes and sha256 in .*/things, got"):
        lookup.find("things")


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "Big", "x" * 65])
def test_a_name_that_could_not_be_a_folder_is_refused(name):
    with pytest.raises(ValueError, match="expected a name"):
        lookup.find(name)


def test_derived_arrays_are_computed_once_and_cached():
    made, calls = miniatures.stored_array(), []

    def draw():
        calls.append(1)
        return {"rows": np.arange(3)}

    first, second = made.derived("split-1", draw), made.derived("split-1", draw)
    assert len(calls) == 1
    assert first["rows"].tolist() == second["rows"].tolist() == [0, 1, 2]
    assert os.listdir(made.folder / "derived") == ["split-1.npz"]


def test_a_damaged_cached_file_is_refused_by_its_name():
    made = miniatures.stored_array()
    made.derived("split-1", lambda: {"rows": np.arange(3)})
    (made.folder / "derived" / "split-1.npz").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"damaged .*split-1.npz; remove it"):
        made.derived("split-1", dict)


def test_in_a_read_only_store_nothing_is_cached(monkeypatch):
    made = miniatures.stored_array()

    def refuse(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert made.derived("x", lambda: {"rows": np.arange(3)})["rows"].tolist() == [0, 1, 2]
    assert not (made.folder / "derived").exists()
