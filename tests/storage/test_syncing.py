import errno
import os

import pytest

from suffice.storage import syncing


@pytest.fixture
def synced(monkeypatch):
    """Paths that are synced, in order."""
    paths = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: paths.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    return paths


def test_what_is_in_a_folder_is_synced_before_its_names(tmp_path, synced):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "file").touch()
    syncing.tree(tmp_path)
    assert synced == [str(tmp_path / "in" / "file"), str(tmp_path / "in"), str(tmp_path)]


def test_folders_that_are_made_are_synced_where_their_names_are(tmp_path, synced):
    syncing.make(tmp_path / "a" / "b")
    syncing.make(tmp_path / "a" / "b")
    assert synced == [str(tmp_path), str(tmp_path / "a")]


def failing(code):
    def fail(descriptor):
        raise OSError(code, os.strerror(code))

    return fail


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_cannot_sync_folders_is_borne(tmp_path, monkeypatch, code):
    monkeypatch.setattr(os, "fsync", failing(code))
    syncing.folder(tmp_path)


def test_a_sync_that_fails_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", failing(errno.EIO))
    with pytest.raises(OSError, match="Input/output error"):
        syncing.folder(tmp_path)
