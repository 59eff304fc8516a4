import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from suffice_runtime.http.codec import binary, listed
from suffice_runtime.http.codec.errors import ProtocolError
from suffice_runtime.http.codec.tensors import BYTES, DTYPES, MAX_COUNT, datatype_of, read_datatype, read_shape

SHAPES = npst.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4)


@st.composite
def tensors(draw):
    """Return a datatype and an array of it, with numbers of every kind."""
    datatype = draw(st.sampled_from([*DTYPES, BYTES]))
    if datatype != BYTES:
        return datatype, draw(npst.arrays(DTYPES[datatype], SHAPES))
    shape = draw(SHAPES)
    found = np.empty(shape, dtype=object)
    for index in np.ndindex(*shape):
        found[index] = draw(st.binary(max_size=5))
    return datatype, found


def as_bytes(array):
    return bytes(memoryview(b"".join([binary.encode(array)])))


def same(first, second):
    if first.dtype.kind == "O":
        return first.shape == second.shape and first.tolist() == second.tolist()
    return (first.shape, first.dtype, first.tobytes()) == (second.shape, second.dtype, second.tobytes())


@given(tensors(), st.integers(0, 9))
def test_every_datatype_comes_back_from_its_bytes_wherever_they_begin(tensor, start):
    datatype, array = tensor
    payload = memoryview(b"x" * start + as_bytes(array))[start:]
    found = binary.decode(payload, datatype, array.shape, "x")
    assert same(found, array)
    assert found.flags.aligned
    assert datatype_of(array.dtype) == datatype


@given(tensors())
def test_every_datatype_comes_back_from_a_list_flat_or_nested(tensor):
    datatype, array = tensor
    if datatype == BYTES:
        array.flat = [value.hex().encode() for value in array.flat]  # JSON holds text only
        nested = np.array([value.decode() for value in array.flat], dtype=object).reshape(array.shape).tolist()
    else:
        if array.dtype.kind == "f":
            array = np.where(np.isfinite(array), array, 0).astype(array.dtype)
        nested = array.tolist()
    assert same(listed.decode(listed.encode(array), datatype, array.shape, "x"), array)
    if array.size:
        assert same(listed.decode(nested, datatype, array.shape, "x"), array)


def test_numbers_that_json_does_not_have_are_null_and_strings():
    array = np.array([1, np.nan, np.inf, -np.inf], dtype=np.float32)
    assert listed.encode(array) == [1.0, None, "inf", "-inf"]


def test_aligned_bytes_are_not_copied():
    payload = np.arange(6, dtype=np.float32)
    view = memoryview(payload).cast("B")
    assert np.shares_memory(binary.decode(view, "FP32", (2, 3), "x"), payload)
    assert np.shares_memory(binary.encode(payload), payload)


@given(tensors(), st.integers(-3, 3).filter(bool))
def test_another_number_of_bytes_is_refused(tensor, change):
    datatype, array = tensor
    payload = as_bytes(array)
    wrong = payload[:change] if change < 0 else payload + b"\0" * change
    if len(wrong) == len(payload):
        return
    with pytest.raises(ProtocolError, match=r"^expected .* in 'x'|^expected .* for 'x'"):
        binary.decode(memoryview(wrong), datatype, array.shape, "x")


@given(st.binary(max_size=40), st.integers(0, 5))
def test_any_bytes_are_strings_or_refused(payload, count):
    try:
        found = binary.decode(memoryview(payload), BYTES, (count,), "x")
    except ProtocolError:
        return
    assert as_bytes(found) == payload


def test_a_string_longer_than_the_body_is_refused_before_it_is_read():
    payload = struct.pack("<I", 0xFFFFFFFF) + b"ab"
    with pytest.raises(ProtocolError, match=r"expected 4,294,967,295 bytes of string 0 in 'x'"):
        binary.decode(memoryview(payload), BYTES, (1,), "x")


def test_flags_are_zero_and_one():
    with pytest.raises(ProtocolError, match="bytes of 0 and 1"):
        binary.decode(memoryview(b"\0\1\2"), "BOOL", (3,), "x")


WRONG = {
    "no list": ("ab", "FP32", [2], "data of 'x' as a list, got 'ab'"),
    "float for integer": ([1.5], "INT32", [1], "expected whole numbers in 'x', INT32, got 1.5"),
    "flag for integer": ([True], "INT8", [1], "expected whole numbers in 'x', INT8, got True"),
    "number for flag": ([1], "BOOL", [1], "expected true and false"),
    "null": ([None], "FP32", [1], "expected numbers in 'x', FP32, got None"),
    "text for number": (["1"], "FP64", [1], "expected numbers"),
    "number for text": ([1], "BYTES", [1], "expected strings"),
    "range": ([-1, 256], "UINT8", [2], "expected numbers from 0 to 255 in 'x', UINT8, got -1"),
    "beyond all integers": ([2**63, -1], "INT64", [2], "got 9223372036854775808"),
    "beyond floats": ([10**400], "FP64", [1], "got one beyond"),
    "too few": ([1.0], "FP32", [2], "expected 2 elements for the shape [2] in 'x', got 1"),
    "ragged": ([[1.0, 2.0], [3.0]], "FP32", [2, 2], "expected lists of the shape [2, 2] in 'x', got others at level 0"),
    "transposed": ([[1.0], [2.0]], "FP32", [1, 2], "others at level 0"),
    "too deep": ([[1.0]], "FP32", [1], "others at level 0"),
    "mixed": ([[1.0], 2.0], "FP32", [2, 1], "others at level 0"),
}


@pytest.mark.parametrize(("data", "datatype", "shape", "message"), WRONG.values(), ids=WRONG)
def test_lists_that_are_not_those_of_the_shape_are_refused(data, datatype, shape, message):
    with pytest.raises(ProtocolError) as caught:
        listed.decode(data, datatype, tuple(shape), "x")
    assert message in str(caught.value)


@pytest.mark.parametrize("shape", [None, 3, [-1], [1.0], [True], ["2"], [2**41], [0, 2**41], [1] * 33, [10**5000]])
def test_shapes_that_are_none_are_refused(shape):
    with pytest.raises(ProtocolError, match=r"^expected a shape"):
        read_shape(shape, "x")


def test_shapes_up_to_the_bound_are_read_without_memory():
    assert read_shape([0, MAX_COUNT], "x") == (0, MAX_COUNT)
    assert binary.decode(memoryview(b""), "FP32", (0, MAX_COUNT), "x").shape == (0, MAX_COUNT)


@pytest.mark.parametrize("datatype", [None, "fp32", "BF16", "FP8", 3, ["FP32"]])
def test_other_datatypes_are_refused(datatype):
    with pytest.raises(ProtocolError, match=r"^expected a datatype of BOOL"):
        read_datatype(datatype, "x")
