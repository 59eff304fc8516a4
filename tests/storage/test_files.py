import errno
import os
import re
import shutil
import signal
import threading

import pytest

from suffice.storage import files, filesystem, manifests, paths
from tests.robustness import faults


def owned(folder):
    return manifests.contents(folder, ["[abc]", "in/", "in/d"], "a test")


def put(path, name="a", text="new"):
    with files.atomic_folder(path, owned) as folder:
        (folder / name).write_text(text)


def put_and(path, then, text="new", listed=owned):
    """Write a folder, and call `then` before the block ends."""
    with files.atomic_folder(path, listed) as folder:
        (folder / "a").write_text(text)
        then()


def write_and(path, then):
    with files.lock_target(path) as target, target.atomic_file() as stream:
        stream.write(b"new")
        then()


def interrupt():
    raise KeyboardInterrupt


@pytest.fixture(params=["exchanged", "renamed twice"])
def way(request, monkeypatch):
    """Replace folders by an exchange, or by two renames as on systems without it."""
    if request.param == "renamed twice":
        monkeypatch.setattr(filesystem, "_rename_call", lambda: None)


def test_a_folder_is_new_or_takes_the_place_of_the_old_one_and_nothing_is_left_beside_it(tmp_path, way):
    put(tmp_path / "deep" / "er" / "t", "a")
    put(tmp_path / "deep" / "er" / "t", "b")
    assert os.listdir(tmp_path / "deep" / "er" / "t") == ["b"]
    assert os.listdir(tmp_path / "deep" / "er") == ["t"]


def test_a_file_is_new_or_takes_the_place_of_the_old_one_and_nothing_is_left_beside_it(tmp_path, way):
    for text in (b"old", b"new"):
        files.atomic_write(tmp_path / "deep" / "f", text)
        assert (tmp_path / "deep" / "f").read_bytes() == text
    assert os.listdir(tmp_path / "deep") == ["f"]


def test_a_block_that_fails_leaves_the_old_one_and_nothing_else(tmp_path):
    put(tmp_path / "t", text="old")
    files.atomic_write(tmp_path / "f", b"old")
    with pytest.raises(KeyboardInterrupt):
        put_and(tmp_path / "t", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_and(tmp_path / "f", interrupt)
    assert (tmp_path / "t" / "a").read_text() == (tmp_path / "f").read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["f", "t"]


def test_a_folder_with_foreign_files_is_refused_before_the_work(tmp_path):
    put(tmp_path / "t")
    (tmp_path / "t" / "mine").write_text("years of work")
    with pytest.raises(FileExistsError, match="got also mine"), files.atomic_folder(tmp_path / "t", owned):
        pytest.fail("worked")
    assert (tmp_path / "t" / "mine").read_text() == "years of work"
    assert os.listdir(tmp_path) == ["t"]


def test_a_file_that_comes_into_the_old_folder_during_the_work_is_not_lost(tmp_path, way):
    put(tmp_path / "t", text="old")
    with pytest.raises(FileExistsError, match="got also mine"):
        put_and(tmp_path / "t", lambda: (tmp_path / "t" / "mine").write_text("years of work"))
    assert (tmp_path / "t" / "mine").read_text() == "years of work"
    assert (tmp_path / "t" / "a").read_text() == "old"
    assert os.listdir(tmp_path) == ["t"]


def test_a_file_that_comes_at_the_last_moment_goes_on_into_the_new_folder(tmp_path, way, monkeypatch):
    put(tmp_path / "t", text="old")
    calls = []

    def list_then_add(folder):
        listed = owned(folder)
        calls.append(folder)
        if len(calls) == 2:  # after the last listing
            (tmp_path / "t" / "mine").write_text("years of work")
        return listed

    put_and(tmp_path / "t", lambda: None, listed=list_then_add)
    assert (tmp_path / "t" / "mine").read_text() == "years of work"
    assert (tmp_path / "t" / "a").read_text() == "new"
    assert os.listdir(tmp_path) == ["t"]


@pytest.mark.skipif(filesystem._rename_call() is None, reason="the system cannot exchange names")
def test_with_exchange_a_folder_is_never_missing(tmp_path, monkeypatch):
    put(tmp_path / "t", text="old")
    monkeypatch.setattr(os, "rename", lambda *_: pytest.fail("renamed"))
    put(tmp_path / "t")
    assert (tmp_path / "t" / "a").read_text() == "new"


def test_files_that_nfs_keeps_open_are_not_moved_into_the_new_folder(tmp_path, monkeypatch):
    put(tmp_path / "t", text="old")
    unlink = os.unlink

    def unlink_as_nfs(path, **more):
        """Rename instead, as NFS does with a file that is open elsewhere."""
        if str(path).endswith("/a"):
            os.rename(path, str(path)[:-1] + ".nfs00000000a1b2c3d4")
        else:
            unlink(path, **more)

    monkeypatch.setattr(os, "unlink", unlink_as_nfs)
    put(tmp_path / "t")
    assert os.listdir(tmp_path / "t") == ["a"]
    monkeypatch.undo()
    put(tmp_path / "t")
    assert os.listdir(tmp_path) == ["t"]


def test_a_path_created_during_the_work_is_not_replaced(tmp_path, way):
    with pytest.raises(FileExistsError):
        put_and(tmp_path / "t", lambda: (tmp_path / "t" / "mine").mkdir(parents=True))
    with pytest.raises(FileExistsError):
        write_and(tmp_path / "f", lambda: (tmp_path / "f").write_text("mine"))
    assert os.listdir(tmp_path / "t") == ["mine"]
    assert (tmp_path / "f").read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == ["f", "t"]


def test_a_link_is_written_through_and_stays(tmp_path):
    (tmp_path / "far").mkdir()
    for name, write in (("t", put), ("f", lambda path: files.atomic_write(path, b"new"))):
        (tmp_path / name).symlink_to(tmp_path / "far" / name)
        with pytest.raises(
            FileExistsError, match=rf"the link .*/{name}, which points to .*, which does not exist; remove"
        ):
            write(tmp_path / name)
        write(tmp_path / "far" / name)
        write(tmp_path / name)
        assert (tmp_path / name).is_symlink()
    assert sorted(os.listdir(tmp_path / "far")) == ["f", "t"]
    assert sorted(os.listdir(tmp_path)) == ["f", "far", "t"]


def test_nothing_is_deleted_through_a_link_inside(tmp_path):
    (tmp_path / "precious").write_text("mine")
    put(tmp_path / "t")
    (tmp_path / "t" / "a").unlink()
    (tmp_path / "t" / "a").symlink_to(tmp_path / "precious")
    with pytest.raises(FileExistsError, match="got also a"):
        put(tmp_path / "t")
    left = paths.temporary_path(tmp_path / "u")
    left.symlink_to(tmp_path / "t", target_is_directory=True)
    put(tmp_path / "u")
    assert left.is_symlink()
    assert (tmp_path / "precious").read_text() == "mine"


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda path: path.write_text("mine"), "the file"),
        (lambda path: os.mkfifo(path), "the FIFO"),
        (lambda path: (path.mkdir(), (path / "mine").touch()), "mine/?"),
    ],
)
def test_a_foreign_file_or_folder_is_refused_by_name(tmp_path, make, what):
    kind = manifests.Kind("a thing", "a test", "", 1)
    make(tmp_path / "t")
    with (
        pytest.raises(FileExistsError, match=f"expected a new path or a thing to replace, got ({what} )?{tmp_path}/t"),
        files.atomic_folder(tmp_path / "t", lambda folder: manifests.owned_paths(folder, kind)),
    ):
        pass


def test_a_path_that_is_not_a_file_is_refused_by_name_without_blocking(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    for name in ("fifo", "folder"):
        for mark in (b"", b"x"):
            with pytest.raises(FileExistsError, match=f"a file to replace, got .*{name}; choose another path"):
                files.atomic_write(tmp_path / name, b"new", mark)
    with pytest.raises(FileExistsError, match="got the device /dev/null"):
        files.atomic_write("/dev/null", b"new")


def test_a_file_without_the_mark_is_not_replaced(tmp_path):
    (tmp_path / "f").write_text("mine")
    for write in (
        lambda: files.atomic_write(tmp_path / "f", b"ours", b"ours"),
        lambda: files.check_replaceable(tmp_path / "f", b"ours"),
    ):
        with pytest.raises(FileExistsError, match="which suffice did not write; choose another path"):
            write()
    (tmp_path / "f").write_text("this is ours")
    files.atomic_write(tmp_path / "f", b"ours, and new", b"ours")
    assert (tmp_path / "f").read_text() == "ours, and new"


@pytest.mark.parametrize("path", ["", ".", "..", "/"])
def test_a_path_without_a_name_is_refused(path, tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    (tmp_path / "mine" / "x").touch()
    for write in (put, lambda path: files.atomic_write(path, b"new")):
        with pytest.raises((FileExistsError, ValueError), match=r"^expected"):
            write(path)
    assert os.listdir(tmp_path / "mine") == ["x"]
    assert os.listdir(tmp_path) == ["mine"]


def test_a_parent_that_is_a_file_is_named(tmp_path):
    (tmp_path / "f").touch()
    for path in (tmp_path / "f" / "t", tmp_path / "f" / "deep" / "t"):
        with pytest.raises(NotADirectoryError, match=rf"expected a folder, got the file {tmp_path}/f; choose another"):
            put(path)


def test_long_names_and_names_that_are_not_utf_8_are_written(tmp_path):
    for name in ("a" * 255, "\udcff\udcfe", "ä" * 127, "line\nbreak", "-", "*"):
        put(tmp_path / name, "a")
        put(tmp_path / name, "b")
        assert os.listdir(tmp_path / name) == ["b"]
        shutil.rmtree(tmp_path / name)
        assert os.listdir(tmp_path) == []
    with pytest.raises(OSError, match=r"expected to write .*, got File name too long .*; choose another path"):
        put(tmp_path / ("a" * 256))


REFUSED = [
    (errno.EACCES, PermissionError, "Permission denied"),
    (errno.EROFS, OSError, "Read-only file system"),
    (errno.EIO, OSError, "Input/output error"),
]


@pytest.mark.parametrize(("code", "kind", "reason"), REFUSED)
def test_an_error_of_the_system_names_the_place_and_keeps_its_number(tmp_path, monkeypatch, code, kind, reason):
    def refuse(path, *_, **__):
        raise OSError(code, os.strerror(code), str(path))

    for name, function in (("folder", "mkdir"), ("file", "open")):
        with monkeypatch.context() as patch:
            patch.setattr(os, function, refuse)
            with pytest.raises(
                kind, match=rf"expected to write {tmp_path}/{name}, got {reason} at .*; choose"
            ) as caught:
                put(tmp_path / name) if name == "folder" else files.atomic_write(tmp_path / name, b"x")
        assert caught.value.errno == code
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        (errno.ENOSPC, r"on the disk of {}, found \d+\.\d\d GB free; free some space"),
        (errno.EDQUOT, r"on the disk of {}, found an exhausted disk quota; free some space"),
        (errno.EFBIG, r"at {}, found a limit on the size of a file; raise it \(ulimit -f\)"),
    ],
)
def test_the_error_of_a_full_disk_states_the_free_space(tmp_path, code, cause):
    put(tmp_path / "t", text="old")
    full = f"expected more space {cause.format(tmp_path)}, or choose another path"
    with pytest.raises(OSError, match=full) as caught, files.atomic_folder(tmp_path / "t", owned):
        raise OSError(code, os.strerror(code))
    assert caught.value.errno == code
    with pytest.raises(OSError, match=full), files.lock_target(tmp_path / "f") as target, target.atomic_file():
        raise OSError(code, os.strerror(code))
    assert os.listdir(tmp_path) == ["t"]


def test_an_empty_folder_is_replaced(tmp_path):
    (tmp_path / "t").mkdir()
    put(tmp_path / "t", text="new")
    assert (tmp_path / "t" / "a").read_text() == "new"
    assert os.listdir(tmp_path) == ["t"]


def test_other_errors_of_the_work_are_not_rewritten(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, files.atomic_folder(tmp_path / "t", owned):
        (tmp_path / "source").read_text()
    assert caught.value.filename == str(tmp_path / "source")


def test_the_next_writer_removes_what_a_killed_one_left_and_nothing_else(tmp_path):
    def killed():
        with files.atomic_folder(tmp_path / "t", owned) as folder:
            (folder / "a").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)

    faults.in_fork(killed)
    faults.in_fork(lambda: files.atomic_write(tmp_path / "f", b"old"))
    assert len(os.listdir(tmp_path)) == 3
    near = [".t.suffice-mine", ".t.bak", ".t.suffice-0123456789abcdef0", paths.temporary_path(tmp_path / "t2").name]
    for name in near:
        (tmp_path / name).touch()
    put(tmp_path / "t")
    assert sorted(os.listdir(tmp_path)) == sorted(["f", "t", *near])


def test_the_files_of_an_active_writer_are_not_leftovers(tmp_path):
    inside, done = threading.Event(), []

    def other():
        with files.atomic_folder(tmp_path / "t", owned) as folder:
            inside.set()
            (folder / "a").write_text("first")
            done.append(sorted(os.listdir(tmp_path)))

    thread = threading.Thread(target=other)
    thread.start()
    inside.wait()
    put(tmp_path / "t", "b")
    thread.join()
    assert os.listdir(tmp_path / "t") == ["b"]
    assert len(done[0]) == 2


def test_a_writer_that_does_not_wait_is_refused(tmp_path):
    with files.atomic_folder(tmp_path / "t", owned):
        busy = pytest.raises(
            BlockingIOError, match=rf"another process or thread is writing {tmp_path}/t; wait until it has finished"
        )
        with busy, files.atomic_folder(tmp_path / "t", owned, wait=False):
            pass
    assert os.listdir(tmp_path) == ["t"]


def test_without_parents_a_missing_folder_is_not_created(tmp_path):
    with pytest.raises(FileNotFoundError), files.lock_target(tmp_path / "gone" / "f", parents=False):
        pass
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("there", [False, True])
def test_the_next_writer_restores_the_folder_after_a_crash_between_two_renames(tmp_path, there, monkeypatch):
    monkeypatch.setattr(filesystem, "_rename_call", lambda: None)
    put(tmp_path / "t", text="old")
    shutil.copytree(tmp_path / "t", paths.backup_path(tmp_path / "t"))
    if not there:
        shutil.rmtree(tmp_path / "t")
    with pytest.raises(ZeroDivisionError), files.atomic_folder(tmp_path / "t", owned):
        1 / 0  # noqa: B018
    assert (tmp_path / "t" / "a").read_text() == "old"
    assert os.listdir(tmp_path) == ["t"]


def test_folders_and_files_have_the_permissions_of_any_new_ones(tmp_path, way):
    mask = os.umask(0o027)
    try:
        for _ in range(2):
            put(tmp_path / "t")
            files.atomic_write(tmp_path / "f", b"x")
            assert (tmp_path / "t").stat().st_mode & 0o777 == 0o750
            assert (tmp_path / "f").stat().st_mode & 0o777 == 0o640
    finally:
        os.umask(mask)


def test_names_in_messages_are_printable(tmp_path):
    (tmp_path / "\udcff").write_text("mine")
    with pytest.raises(FileExistsError, match=re.escape(r"\udcff")) as caught:
        files.atomic_write(tmp_path / "\udcff", b"x", b"mark")
    str(caught.value).encode()
