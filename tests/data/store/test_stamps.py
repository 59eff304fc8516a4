import json
import os
import shutil
import time

import numpy as np
import pytest

from suffice.data.store import lookup, stamps
from suffice.data.store.writer import create_dataset
from suffice.utils.progress import quiet

LONG_AGO = time.time_ns() - 3_600 * 10**9


@pytest.fixture
def hashed(monkeypatch):
    """Return the growing list of files that are hashed, starting without stamps in memory."""
    monkeypatch.setattr(stamps, "_here", {})
    digest, names = stamps.hashlib.file_digest, []

    def noted(stream, algorithm):
        names.append(os.path.basename(os.readlink(f"/proc/self/fd/{stream.fileno()}")))
        return digest(stream, algorithm)

    monkeypatch.setattr(stamps.hashlib, "file_digest", noted)
    return names


@pytest.fixture
def made():
    with create_dataset("things", quiet) as writer:
        for name in ("a", "b"):
            writer.save(name, np.arange(1000), np.int64)
    return lookup.find("things")


def settled(monkeypatch):
    """Treat all modification times as long past."""
    monkeypatch.setattr(stamps, "_SETTLED", -1 << 62)


def test_a_fresh_import_is_not_hashed_again(made, hashed):
    for _ in range(2):
        assert lookup.find("things").array("a")[3] == 3
    assert hashed == []


def test_a_copy_is_hashed_once_file_by_file(made, hashed, monkeypatch):
    settled(monkeypatch)
    shutil.copytree(made.folder, made.folder.with_name("copy"))
    copy = lookup.find("copy")
    copy.array("a")
    assert hashed == ["a.npy"]
    stamps._here.clear()  # as in another process
    for name in ("a", "b", "a"):
        copy.array(name)
    assert hashed == ["a.npy", "b.npy"]
    assert (
        json.loads((copy.folder / "verified.json").read_text())["b.npy"][0] == copy.manifest["files"]["b.npy"]["sha256"]
    )


def flip(file):
    """Change a byte, and restore the modification time."""
    before = file.stat()
    with file.open("r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        stream.write(b"\x7f")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_changed_byte_is_noticed_though_length_and_time_are_as_they_were(made, hashed, monkeypatch):
    settled(monkeypatch)
    made.array("a")
    flip(made.folder / "a.npy")
    for _ in range(2):
        with pytest.raises(ValueError, match=r"expected .*/a.npy with SHA-256 .* import the set again"):
            made.array("a")
    assert made.array("b")[3] == 3


def test_no_stamp_is_stored_right_after_a_change(made, hashed):
    """Check that no stamp is stored, since a further change within the same clock tick would not be detected."""
    (made.folder / "a.npy").write_bytes((made.folder / "a.npy").read_bytes())
    for _ in range(2):
        made.array("a")
    assert hashed == ["a.npy"] * 2


def test_in_a_read_only_store_stamps_are_kept_in_memory(made, hashed, monkeypatch):
    settled(monkeypatch)
    (made.folder / "verified.json").unlink()

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(stamps.files, "lock_target", refuse)
    for _ in range(2):
        made.array("a")
    assert hashed == ["a.npy"]


@pytest.mark.parametrize(
    "text", ["", "[]", "[" * 100_000, '{"a.npy": 1}', '{"a.npy": ["x", 1, 2, 3, 4]}', '{"a.npy": null}']
)
def test_damaged_stamps_are_ignored(made, hashed, text):
    (made.folder / "verified.json").write_text(text)
    assert made.array("a")[3] == 3
    assert hashed == ["a.npy"]


def test_a_requested_check_always_hashes_and_stores_the_stamp(made, hashed, monkeypatch):
    settled(monkeypatch)
    (made.folder / "verified.json").unlink()
    for _ in range(2):
        assert lookup.damaged_files(made) == []
    stamps._here.clear()  # as in another process
    made.array("a")
    assert hashed == ["a.npy", "b.npy"] * 2


def test_stamps_of_another_import_are_ignored(made, hashed, monkeypatch):
    settled(monkeypatch)
    known = stamps.load_verified(made.folder)
    made.manifest["files"]["a.npy"]["sha256"] = "0" * 64
    assert known["a.npy"][0] != "0" * 64
    with pytest.raises(ValueError, match="with SHA-256 000000000000"):
        made.array("a")


def test_every_file_of_a_set_is_checked_by_every_reader(made, monkeypatch):
    import pyarrow as pa

    with create_dataset("table", quiet) as writer, writer.table("rows", pa.schema([("x", pa.int64())])) as append:
        append(pa.table({"x": list(range(100))}))
    table = lookup.find("table")
    assert table.table("rows")["x"][7].as_py() == 7
    flip(table.folder / "rows.parquet")
    for read in (lambda: table.table("rows"), lambda: table.parquet("rows")):
        with pytest.raises(ValueError, match="changed since the import"):
            read()
