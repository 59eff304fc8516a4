import os
import socket
from pathlib import Path

import pytest

from suffice.storage import paths, reading


@pytest.fixture
def not_files(tmp_path):
    """Return paths that are not files, by type; opening the FIFO would block."""
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
    (tmp_path / "link").symlink_to("/dev/zero")
    return {"FIFO": tmp_path / "fifo", "socket": tmp_path / "socket", "device": tmp_path / "link", "folder": tmp_path}


@pytest.mark.parametrize("kind", ["FIFO", "socket", "device", "folder"])
def test_a_path_that_is_not_a_file_is_refused_by_name_and_not_opened(not_files, kind):
    for read in (reading.open_file, reading.read_file, reading.read_json):
        with pytest.raises(ValueError, match=f"expected a file, got a {kind} at {not_files[kind]}"):
            read(not_files[kind])


def test_a_fifo_that_replaces_a_file_does_not_block(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "fifo")
    opened = os.open
    monkeypatch.setattr(os, "open", lambda path, flags: opened(tmp_path / "fifo", flags))
    with pytest.raises(ValueError, match="got a FIFO"):
        reading.open_file(tmp_path / "file")


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    with (tmp_path / "m").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ValueError, match="at most 67,108,864 bytes"):
        reading.read_json(tmp_path / "m")
    (tmp_path / "n").write_bytes(b"12345")
    assert reading.read_file(tmp_path / "n", 5) == b"12345"
    with pytest.raises(ValueError, match="at most 4 bytes"):
        reading.read_file(tmp_path / "n", 4)


def nest(depth):
    return '{"a": [' * (depth // 2) + "1" + "]}" * (depth // 2)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, nest(400), nest(102), "[" * 100_000 + "]" * 100_000]
)
def test_json_that_is_nested_too_deeply_is_refused(tmp_path, text):
    (tmp_path / "m").write_text(text)
    with pytest.raises(ValueError, match=r"expected JSON .*in .*/m, got (more|something else: .*than 100 levels)"):
        reading.read_json(tmp_path / "m")


def test_json_at_the_depth_limit_is_read(tmp_path):
    (tmp_path / "m").write_text(nest(100))
    assert reading.read_json(tmp_path / "m")["a"][0]


@pytest.mark.parametrize("payload", [b"", b"{", b"\xff\xfe", b"1" * 5000, b'"\xff"'])
def test_a_file_that_is_not_json_is_refused_by_name(tmp_path, payload):
    (tmp_path / "m").write_bytes(payload)
    with pytest.raises(ValueError, match=r"expected JSON in .*/m"):
        reading.read_json(tmp_path / "m")


def test_after_a_crash_the_backup_is_the_current_folder(tmp_path):
    target = tmp_path / "art"
    paths.backup_path(target).mkdir()
    assert reading.current_folder(target) == paths.backup_path(target)
    (tmp_path / "link").symlink_to("art")
    assert reading.current_folder(tmp_path / "link") == paths.backup_path(target)
    target.mkdir()
    assert reading.current_folder(target) == target


def test_a_failed_read_is_repeated_if_the_folder_was_replaced(tmp_path):
    folder, calls = tmp_path / "art", []
    folder.mkdir()

    def read(place):
        calls.append(place)
        if len(calls) < 3:
            place.rename(tmp_path / f"old{len(calls)}")
            folder.mkdir()
            raise FileNotFoundError("removed with the old folder")
        return "read"

    assert reading.read_consistently(folder, read) == "read"
    assert len(calls) == 3


def test_an_error_of_an_unchanged_folder_is_raised_at_once(tmp_path):
    calls = []

    def read(place):
        calls.append(place)
        raise ValueError("damaged")

    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(ValueError, match="damaged"):
            reading.read_consistently(folder, read)
    assert calls == [tmp_path, tmp_path / "none"]


def test_a_folder_renamed_to_its_backup_during_a_read_is_read_there(tmp_path):
    folder, calls = tmp_path / "art", []
    folder.mkdir()

    def read(place: Path):
        calls.append(place)
        if len(calls) == 1:
            folder.rename(paths.backup_path(folder))
            raise FileNotFoundError("gone")
        return place

    assert reading.read_consistently(folder, read) == paths.backup_path(folder)


def test_a_backup_that_appears_during_a_read_is_read(tmp_path):
    folder, calls = tmp_path / "art", []

    def read(place: Path):
        calls.append(place)
        if len(calls) == 1:
            paths.backup_path(folder).mkdir()
            raise FileNotFoundError("gone")
        return place

    assert reading.read_consistently(folder, read) == paths.backup_path(folder)


def test_without_hashes_a_read_is_repeated_until_the_folder_is_unchanged(tmp_path):
    folder, calls = tmp_path / "art", []
    folder.mkdir()

    def read(place):
        calls.append(place)
        if len(calls) < 3:
            place.rename(tmp_path / f"old{len(calls)}")
            folder.mkdir()
        return len(calls)

    assert reading.read_consistently(folder, read, hashed=False) == 3
