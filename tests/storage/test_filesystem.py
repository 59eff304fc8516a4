import ctypes
import errno
import os
from types import SimpleNamespace

import pytest

from suffice.storage import filesystem


@pytest.fixture
def two_folders(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text(name)
    return tmp_path / "a", tmp_path / "b"


@pytest.fixture
def fresh():
    """Look up the system's rename anew, before and after the test."""
    filesystem._rename_call.cache_clear()
    yield
    filesystem._rename_call.cache_clear()


def rename_with_error(code, calls=None):
    """Return a rename call that ends with an error number, or succeeds for 0."""

    def rename(*arguments):
        if calls is not None:
            calls.append(arguments)
        ctypes.set_errno(code)
        return -1 if code else 0

    return rename


@pytest.mark.skipif(filesystem._rename_call() is None, reason="the system cannot exchange names")
def test_two_names_are_exchanged_or_neither_is(two_folders):
    first, second = two_folders
    assert filesystem.exchange(first, second)
    assert (os.listdir(first), os.listdir(second)) == (["b"], ["a"])
    with pytest.raises(FileNotFoundError):
        filesystem.exchange(first, first.with_name("c"))
    assert os.listdir(first) == ["b"]


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM])
def test_exchange_returns_false_where_the_system_does_not_support_it(two_folders, monkeypatch, code):
    monkeypatch.setattr(filesystem, "_rename_call", lambda: (rename_with_error(code), 2, 1))
    assert not filesystem.exchange(*two_folders)
    assert os.listdir(two_folders[0]) == ["a"]
    monkeypatch.setattr(filesystem, "_rename_call", lambda: None)
    assert not filesystem.exchange(*two_folders)


def test_an_error_of_the_system_names_both(two_folders, monkeypatch):
    monkeypatch.setattr(filesystem, "_rename_call", lambda: (rename_with_error(errno.EXDEV), 2, 1))
    with pytest.raises(OSError, match="a' -> '") as caught:
        filesystem.exchange(two_folders[0], two_folders[1])
    assert caught.value.errno == errno.EXDEV


@pytest.mark.parametrize("system", ["its own", "none"])
def test_a_rename_to_a_name_that_is_taken_replaces_nothing(two_folders, monkeypatch, system):
    if system == "none":
        monkeypatch.setattr(filesystem, "_rename_call", lambda: None)
    first, second = two_folders
    (second / "b").unlink()
    with pytest.raises(FileExistsError):
        filesystem.rename_new(first, second)  # `os.rename` replaces an empty folder
    filesystem.rename_new(first, first.with_name("c"))
    assert sorted(os.listdir(first.parent)) == ["b", "c"]


def test_macos_uses_renamex_np_with_its_own_flags(two_folders, monkeypatch, fresh):
    calls = []
    library = SimpleNamespace(renamex_np=rename_with_error(0, calls))
    monkeypatch.setattr("ctypes.CDLL", lambda *_, **__: library)
    assert filesystem.exchange(*two_folders)
    filesystem.rename_new(*two_folders)
    names = [os.fsencode(path) for path in two_folders]
    assert calls == [(*names, 2), (*names, 4)]  # RENAME_SWAP, RENAME_EXCL


def test_windows_has_no_exchange(monkeypatch, fresh):
    def no_library(*_, **__):
        raise TypeError("expected a name")

    monkeypatch.setattr("ctypes.CDLL", no_library)
    assert filesystem._rename_call() is None


@pytest.fixture
def synced(monkeypatch):
    """Return the list that fills with synced paths, in order."""
    paths = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: paths.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    return paths


def test_the_content_of_a_folder_is_synced_before_its_names(tmp_path, synced):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "file").touch()
    filesystem.sync_tree(tmp_path)
    assert synced == [str(tmp_path / "in" / "file"), str(tmp_path / "in"), str(tmp_path)]


def test_new_folders_are_synced_through_their_parents(tmp_path, synced):
    filesystem.make_folders(tmp_path / "a" / "b")
    filesystem.make_folders(tmp_path / "a" / "b")
    assert synced == [str(tmp_path), str(tmp_path / "a")]


def failing(code):
    def fail(descriptor):
        raise OSError(code, os.strerror(code))

    return fail


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_cannot_sync_folders_is_accepted(tmp_path, monkeypatch, code):
    monkeypatch.setattr(os, "fsync", failing(code))
    filesystem.sync_folder(tmp_path)


def test_a_sync_that_fails_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", failing(errno.EIO))
    with pytest.raises(OSError, match="Input/output error"):
        filesystem.sync_folder(tmp_path)
