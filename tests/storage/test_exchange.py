import ctypes
import errno
import os
from types import SimpleNamespace

import pytest

from suffice.storage import exchange


@pytest.fixture
def two(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text(name)
    return tmp_path / "a", tmp_path / "b"


@pytest.fixture
def fresh():
    """What the system can is looked up anew, before and after."""
    exchange._system.cache_clear()
    yield
    exchange._system.cache_clear()


def answering(code, calls=None):
    """A system whose renames end with an error number."""

    def rename(*arguments):
        if calls is not None:
            calls.append(arguments)
        ctypes.set_errno(code)
        return -1 if code else 0

    return rename


@pytest.mark.skipif(exchange._system() is None, reason="the system cannot")
def test_two_names_are_swapped_or_neither_is(two):
    first, second = two
    assert exchange.exchange(first, second)
    assert (os.listdir(first), os.listdir(second)) == (["b"], ["a"])
    with pytest.raises(FileNotFoundError):
        exchange.exchange(first, first.with_name("c"))
    assert os.listdir(first) == ["b"]


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM])
def test_where_the_system_cannot_nothing_is_swapped_and_that_is_said(two, monkeypatch, code):
    monkeypatch.setattr(exchange, "_system", lambda: (answering(code), 2, 1))
    assert not exchange.exchange(*two)
    assert os.listdir(two[0]) == ["a"]
    monkeypatch.setattr(exchange, "_system", lambda: None)
    assert not exchange.exchange(*two)


def test_an_error_of_the_system_names_both(two, monkeypatch):
    monkeypatch.setattr(exchange, "_system", lambda: (answering(errno.EXDEV), 2, 1))
    with pytest.raises(OSError, match="a' -> '") as caught:
        exchange.exchange(two[0], two[1])
    assert caught.value.errno == errno.EXDEV


@pytest.mark.parametrize("system", ["its own", "none"])
def test_a_rename_to_a_name_that_is_taken_replaces_nothing(two, monkeypatch, system):
    if system == "none":
        monkeypatch.setattr(exchange, "_system", lambda: None)
    first, second = two
    (second / "b").unlink()
    with pytest.raises(FileExistsError):
        exchange.rename_new(first, second)  # `os.rename` replaces an empty folder
    exchange.rename_new(first, first.with_name("c"))
    assert sorted(os.listdir(first.parent)) == ["b", "c"]


def test_macos_is_asked_by_its_own_call_and_flags(two, monkeypatch, fresh):
    calls = []
    library = SimpleNamespace(renamex_np=answering(0, calls))
    monkeypatch.setattr("ctypes.CDLL", lambda *_, **__: library)
    assert exchange.exchange(*two)
    exchange.rename_new(*two)
    names = [os.fsencode(path) for path in two]
    assert calls == [(*names, 2), (*names, 4)]  # RENAME_SWAP, RENAME_EXCL


def test_windows_has_no_such_call(monkeypatch, fresh):
    def none(*_, **__):
        raise TypeError("expected a name")

    monkeypatch.setattr("ctypes.CDLL", none)
    assert exchange._system() is None
