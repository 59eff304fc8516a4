import io
import zipfile

import numpy as np
import pytest

from suffice.data.formats import arrays


def write(path, **members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return path


def encoded(array, **options):
    out = io.BytesIO()
    np.lib.format.write_array(out, np.asarray(array), **options)
    return out.getvalue()


def test_arrays_are_read_by_name_and_kind(tmp_path):
    np.savez_compressed(tmp_path / "x.npz", a=np.arange(3), b=np.array(["x", "yy"]), c=np.zeros((2, 2)))
    found = arrays.read(tmp_path / "x.npz", a="integers", b="text")
    assert {name: array.tolist() for name, array in found.items()} == {"a": [0, 1, 2], "b": ["x", "yy"]}


def forged(**header):
    """Return an array file whose header does not match its data."""
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": "|u1", "fortran_order": False, "shape": (3,), **header})
    return out.getvalue() + bytes(3)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (encoded([1.5]), "expected an array of integers, got float64"),
        (encoded([[1]]), r"got int64 of shape \(1, 1\)"),
        (encoded(["x"]), "got <U1"),
        (encoded([True]), "got bool"),
        (encoded(np.array([{}], object), allow_pickle=True), "damaged a in"),
        (encoded([1, 2, 3])[:-3], "damaged a in"),
        (b"", "damaged a in"),
        (b"\x93NUMPY\x01\x00\xff\xff{", "damaged a in"),
        (b"\x93NUMPY\x01\x00\x0a\x00__import__", "damaged a in"),
        (forged(shape=(2**40,)), "damaged a in"),
        (forged(shape=(2**62, 2**62)), "damaged a in"),
        (forged(shape=(-3,)), "damaged a in"),
        (forged(descr="|O"), "damaged a in"),
        (forged(descr="nonsense"), "damaged a in"),
        (b"\x93NUMPY\x09\x00", "damaged a in"),
    ],
)
def test_an_array_that_is_not_as_it_should_be_is_named(tmp_path, data, message):
    file = write(tmp_path / "x.npz", a=data)
    with pytest.raises(ValueError, match=message) as caught:
        arrays.read(file, a="integers")
    assert "x.npz" in str(caught.value)


def test_an_array_that_unpacks_to_more_than_it_may_is_refused_before_it_is_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "LIMIT", 100_000)
    file = write(tmp_path / "x.npz", a=encoded(np.zeros(10**7, np.uint8)))
    with pytest.raises(ValueError, match=r"expected at most 100,000 bytes, got more in a in .*x.npz; refused"):
        arrays.read(file, a="integers")


def test_what_is_no_archive_or_lacks_an_array_is_named(tmp_path):
    (tmp_path / "x.npz").write_bytes(b"<html>")
    with pytest.raises(ValueError, match=r"expected a NumPy archive, got .*x.npz"):
        arrays.read(tmp_path / "x.npz", a="integers")
    file = write(tmp_path / "y.npz", b=encoded([1]))
    with pytest.raises(ValueError, match=r"expected the array a in .*y.npz, the archive has only b.npy"):
        arrays.read(file, a="integers")
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"y.npz"):
        arrays.read(file, b="integers")
