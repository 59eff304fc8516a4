import json
import os
import re
import socket

import pytest

from suffice.storage import manifests
from suffice.storage.manifests import Kind

KIND = Kind("a thing", "suffice.thing", "make it again", 1, {"parts": list}, lambda m: [*map(re.escape, m["parts"])])
HEAD = {"format": 1, "library": "suffice 0.1.0"}


def made(folder, **more):
    folder.mkdir()
    manifests.write_manifest(folder, {**HEAD, "parts": ["a", "in/", "in/b"], **more})
    (folder / "a").touch()
    (folder / "in").mkdir()
    (folder / "in" / "b").touch()
    return folder


def test_an_owned_folder_is_listed_with_folders_before_their_content(tmp_path):
    listed = manifests.owned_paths(made(tmp_path / "t"), KIND)
    assert sorted(listed) == ["a", "in/", "in/b", "manifest.json"]
    assert listed.index("in/") < listed.index("in/b")


def test_a_folder_with_missing_or_damaged_files_is_still_owned(tmp_path):
    folder = made(tmp_path / "t")
    (folder / "a").write_text("torn")
    (folder / "in" / "b").unlink()
    assert sorted(manifests.owned_paths(folder, KIND)) == ["a", "in/", "manifest.json"]


@pytest.mark.parametrize("name", [".DS_Store", "in/.DS_Store", "Thumbs.db", ".nfs00000000a1b2c3d4", "desktop.ini"])
def test_files_of_file_managers_and_file_systems_are_owned(tmp_path, name):
    folder = made(tmp_path / "t")
    (folder / name).touch()
    assert name in manifests.owned_paths(folder, KIND)
    (folder / name).rename(folder / f"{name}.txt")
    with pytest.raises(FileExistsError, match=re.escape(f"{name}.txt")):
        manifests.owned_paths(folder, KIND)


def test_a_folder_of_another_format_is_owned(tmp_path):
    assert manifests.owned_paths(made(tmp_path / "t", format=2), KIND)


def link(folder):
    (folder / "a").unlink()
    (folder / "a").symlink_to("/etc/hostname")


def fifo(folder):
    (folder / "a").unlink()
    os.mkfifo(folder / "a")


def listening(folder):
    with socket.socket(socket.AF_UNIX) as each:
        each.bind(str(folder / "s"))


FOREIGN = {
    "mine.txt": lambda folder: (folder / "mine.txt").touch(),
    ".hidden": lambda folder: (folder / ".hidden").touch(),
    "in/mine": lambda folder: (folder / "in" / "mine").touch(),
    "dir/": lambda folder: (folder / "dir" / "deep").mkdir(parents=True),
    "a": link,
    "a ": lambda folder: (folder / "a ").touch(),
    "in/b/": lambda folder: ((folder / "in" / "b").unlink(), (folder / "in" / "b").mkdir()),
    "s": listening,
    r"\udcff": lambda folder: (folder / "\udcff").touch(),
    "A": lambda folder: (folder / "A").touch(),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_files_are_named(tmp_path, name):
    folder = made(tmp_path / "t")
    FOREIGN[name](folder)
    with pytest.raises(FileExistsError, match=f"got also {re.escape(name)}; move that away") as caught:
        manifests.owned_paths(folder, KIND)
    str(caught.value).encode()


def test_a_fifo_is_refused_without_blocking(tmp_path):
    folder = made(tmp_path / "t")
    fifo(folder)
    with pytest.raises(FileExistsError, match="got also a;"):
        manifests.owned_paths(folder, KIND)


def test_of_many_foreign_files_five_are_named(tmp_path):
    folder = made(tmp_path / "t")
    for i in range(9):
        (folder / f"x{i}").touch()
    with pytest.raises(FileExistsError, match="got also x0, x1, x2, x3, x4 and 4 more;"):
        manifests.owned_paths(folder, KIND)


def rewritten(file, change):
    manifest = json.loads(file.read_text())
    change(manifest)
    file.write_text(json.dumps(manifest))


def signed(file, change):
    """Change a manifest and compute its digest anew."""

    def again(manifest):
        manifest.pop("manifest_sha256")
        change(manifest)
        manifest["manifest_sha256"] = manifests.digest(manifest)

    rewritten(file, again)


CHANGES = {
    "an entry changed": lambda file: rewritten(file, lambda m: m.update(format=2)),
    "an entry more": lambda file: rewritten(file, lambda m: m.update(more=1)),
    "no digest": lambda file: rewritten(file, lambda m: m.pop("manifest_sha256")),
    "of another library": lambda file: signed(file, lambda m: m.update(library="keras 3")),
    "of no library": lambda file: signed(file, lambda m: m.pop("library")),
    "with a library that is a list": lambda file: signed(file, lambda m: m.update(library=["suffice 1"])),
    "of a format that is no number": lambda file: signed(file, lambda m: m.update(format=True)),
    "of another kind": lambda file: signed(file, lambda m: m.pop("parts")),
    "of another type": lambda file: signed(file, lambda m: m.update(parts={"a": 1})),
    "empty": lambda file: file.write_text(""),
    "a list": lambda file: file.write_text("[]"),
    "a browser extension's": lambda file: file.write_text('{"manifest_version": 3}'),
    "nested": lambda file: file.write_text("[" * 100_000),
    "binary": lambda file: file.write_bytes(bytes(range(256))),
    "a FIFO": lambda file: (file.unlink(), os.mkfifo(file)),
    "a folder": lambda file: (file.unlink(), file.mkdir()),
    "missing": lambda file: file.unlink(),
    "a link to a device": lambda file: (file.unlink(), file.symlink_to("/dev/zero")),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_folder_with_a_changed_manifest_is_neither_replaced_nor_read(tmp_path, change):
    folder = made(tmp_path / "t")
    CHANGES[change](folder / "manifest.json")
    with pytest.raises(FileExistsError, match=f"expected a new path or a thing to replace, got {folder}.*another path"):
        manifests.owned_paths(folder, KIND)
    with pytest.raises(FileNotFoundError if change == "missing" else ValueError, match=r"^expected"):
        manifests.read_manifest(folder, KIND)


def test_a_manifest_that_could_not_be_read_is_not_written(tmp_path):
    deep = value = []
    for _ in range(200):
        value.append([])
        value = value[0]
    with pytest.raises(ValueError, match="more than 100 levels"):
        manifests.write_manifest(tmp_path, {**HEAD, "parts": deep})
    with pytest.raises(ValueError, match="at most 67,108,864 bytes"):
        manifests.write_manifest(tmp_path, {**HEAD, "parts": ["x" * (64 << 20)]})
    assert list(tmp_path.iterdir()) == []
