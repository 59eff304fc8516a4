import os
import socket
from pathlib import Path

import pytest

from suffice.storage import paths
from suffice.utils.text import printable


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/tmp/ä b", "/tmp/ä b"),
        ("/tmp/\udcff", r"/tmp/\udcff"),
        ("/tmp/a\nb\x1b[31m", r"/tmp/a\nb\x1b[31m"),
        ("/tmp/\u202eexe", r"/tmp/\u202eexe"),
    ],
)
def test_unprintable_characters_are_escaped(path, shown):
    assert printable(path) == printable(Path(path)) == shown
    shown.encode()


def test_paths_are_described_with_their_file_type(tmp_path):
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
    (tmp_path / "link").symlink_to("nowhere")
    descriptions = {name: paths.describe_path(tmp_path / name) for name in ("file", "fifo", "s", "link", "none")}
    assert descriptions == {
        "file": f"the file {tmp_path}/file",
        "fifo": f"the FIFO {tmp_path}/fifo",
        "s": f"the socket {tmp_path}/s",
        "link": f"the link {tmp_path}/link, which points to nowhere, which does not exist",
        "none": f"{tmp_path}/none",
    }
    assert paths.describe_path(tmp_path) == str(tmp_path)
    assert paths.describe_path("/dev/null") == "the device /dev/null"


def test_links_are_resolved(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there")
    assert paths.resolve(tmp_path / "link") == tmp_path / "there"
    assert paths.resolve(tmp_path / "link" / "new") == tmp_path / "there" / "new"
    assert paths.resolve(f"{tmp_path}/there/../x/") == tmp_path / "x"


@pytest.mark.parametrize("path", ["link", "link/below", "link/deep/below", "loop"])
def test_a_broken_link_is_refused_by_name(tmp_path, path):
    (tmp_path / "link").symlink_to(tmp_path / "unmounted")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(
        FileExistsError, match=rf"the link {tmp_path}/(link|loop), which points to .*, which does not exist"
    ):
        paths.resolve(tmp_path / path)
    assert not (tmp_path / "unmounted").exists()


def test_an_empty_path_is_refused():
    with pytest.raises(ValueError, match="got an empty one"):
        paths.resolve("")


def test_only_temporary_paths_are_leftovers(tmp_path):
    target = tmp_path / "art"
    ours = [paths.temporary_path(target) for _ in range(2)]
    foreign = (
        ".art.20240101",
        ".art.suffice-backup",
        ".art.suffice-0123456789abcdef.bak",
        ".art.suffice-0123456789ABCDEF",
    )
    for path in (
        *ours,
        *(tmp_path / name for name in foreign),
        paths.temporary_path(tmp_path / "art2"),
        paths.lock_path(target),
    ):
        path.touch()
    assert set(paths.leftover_paths(target)) == set(ours)


@pytest.mark.parametrize("name", ["a" * 255, "\udcff" * 255, "ä" * 127])
def test_hidden_names_fit_into_a_folder_whatever_the_name(tmp_path, name):
    target = tmp_path / name
    for path in (paths.lock_path(target), paths.backup_path(target), paths.temporary_path(target)):
        path.touch()
    assert len(paths.leftover_paths(target)) == 1
    assert paths.lock_path(target) != paths.lock_path(tmp_path / (name[:-1] + "b"))
