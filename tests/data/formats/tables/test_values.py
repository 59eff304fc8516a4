import numpy as np
import pyarrow as pa
import pytest

from suffice.data.formats.tables import values
from suffice.data.formats.tables.values import Rows
from suffice.data.store.bad_records import BadRecords


def rows(column, unit="line"):
    return Rows(pa.table({"a": column, "b": pa.array(range(len(column)))}), np.arange(len(column)) + 2, unit)


def converted(column, kind="float32"):
    """Return the converted numbers, their row numbers, and the bad records."""
    bad_records = BadRecords(skip=True)
    found = values.convert(rows(column), {"a": kind}, "x", bad_records)
    assert len(found.table) + bad_records.count == len(column)
    return found.table["a"].to_pylist(), (found.numbers - 2).tolist(), bad_records.first


NO_NUMBERS = ["nan", "NaN", "-nan", "inf", "-inf", "Infinity", "1e39", "1e400", "-1e400", "1,5", "1 000", " 5", "5 "]
NO_NUMBERS += ["0x10", "1_000", "٣", "true", "5%", "$5", "-", ".", "e5", "1e", "5\n", "5\0", "x" * 200_000, "--5"]
NO_NUMBERS += ["1.2.3", "NA", "1d5"]


@pytest.mark.parametrize("text", NO_NUMBERS)
def test_text_that_is_no_finite_number_is_a_fault(text):
    numbers, places, (fault,) = converted(pa.array(["1", text, None, "2"]))
    assert (numbers, places) == ([1, None, 2], [0, 2, 3])
    assert fault.startswith("line 3 of x: expected a as a finite number, got '")
    assert len(fault) < 200


def test_text_that_is_a_number_is_read():
    text = ["1", "-1.5", "+2", ".5", "1.", "1e3", "1E-3", "1e-400", "-0", "123456789012345678901234567890", "00012"]
    expected = [np.float32(float(t)) for t in text]
    assert converted(pa.array(text))[0] == expected


@pytest.mark.parametrize(
    "column",
    [
        pa.array([1, 2**24 + 1, -(2**53) - 1, None]),
        pa.array([0.1, 1e-300, -3.0, None]),
        pa.array([True, False, None]),
        pa.array([1, 2, None], pa.uint8()),
        pa.array([np.float16(1.5), None], pa.float16()),
        pa.array([None, None], pa.string()),
        pa.array(["1.50", "-2"]).cast(pa.decimal128(9, 2)),
    ],
)
def test_numbers_of_any_type_are_rounded_to_float32(column):
    expected = [None if v is None else float(np.float32(float(v))) for v in column.to_pylist()]
    assert converted(column)[0] == expected


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf"), 1e39, -1e300])
def test_numbers_that_are_not_finite_as_float32_are_faults(wrong):
    numbers, places, (fault,) = converted(pa.array([1.0, wrong, None]))
    assert (numbers, places) == ([1, None], [0, 2])
    assert fault == f"line 3 of x: expected a as a finite number, got {wrong!r}"


@pytest.mark.parametrize("text", ["1.0", "0x10", "0XA", " 1", "1e2", "", "2147483648", "+1", "-"])
def test_text_that_is_no_whole_number_is_a_fault(text):
    assert converted(pa.array(["1", text, "-2", None]), "int32")[:2] == ([1, -2, None], [0, 2, 3])


def test_a_row_with_two_faults_is_one(monkeypatch):
    table = pa.table({"a": ["x", "1"], "b": ["y", "z"]})
    bad_records = BadRecords(skip=True)
    found = values.convert(Rows(table, np.arange(2)), {"a": "float32", "b": "float32"}, "x", bad_records)
    assert (len(found.table), bad_records.count) == (0, 2)


def test_a_number_that_is_needed_and_its_range():
    bad_records = BadRecords(skip=True)
    column = pa.array([0, 1, None, 2, -1], pa.int32())
    found = values.require_numbers(rows(column, "row"), "a", "x", bad_records, low=0, high=1)
    assert found.table["a"].to_pylist() == [0, 1]
    assert bad_records.first == [
        "row 4 of x: expected a as a number from 0 to 1, got none",
        "row 5 of x: expected a as a number from 0 to 1, got 2",
        "row 6 of x: expected a as a number from 0 to 1, got -1",
    ]
    assert (
        len(values.require_numbers(rows(pa.array([1.0, float("nan"), None])), "a", "x", BadRecords(skip=True)).table)
        == 1
    )


def test_a_value_is_shown_in_a_message_by_its_beginning_and_its_escapes():
    assert values.format_value(pa.scalar("\x1b[31m")) == r"'\x1b[31m'"
    assert values.format_value(pa.scalar("x" * 1000)) == "'" + "x" * (values.SHOWN - 1) + "… of 1,002 characters"
    assert values.format_value(pa.scalar(None, pa.string())) == "none"
    assert values.format_value(pa.scalar(b"\xe9").cast(pa.string(), safe=False)) == r"b'\xe9'"
