import datetime
import decimal
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from suffice.data.formats.tables import parquet

GOOD = {
    "whole": pa.array([1, None, 3], pa.uint64()),
    "float": pa.array([1.5, None, 3], pa.float64()),
    "half": pa.array([np.float16(1.5), None, np.float16(3)], pa.float16()),
    "bool": pa.array([True, None, False]),
    "text": pa.array(["a", None, "b"]),
    "large": pa.array(["a", None, "b"], pa.large_string()),
    "categories": pa.array(["a", None, "b"]).dictionary_encode(),
    "numbers": pa.array([5, None, 7], pa.int64()).dictionary_encode(),
    "nothing": pa.nulls(3),
    "with.dot": pa.array(["x", "y", "z"]),
    "with": pa.array(["p", "q", "r"]),
    "c/d": pa.array([1, 2, 3]),
    "a\nb\x1b": pa.array([1, 2, 3]),
}


def read(file, names, **options):
    tables = [rows.table for rows in parquet.read_rows(file, names, **options)]
    return pa.concat_tables(tables).to_pydict()


def test_columns_of_plain_types_are_read_without_dictionaries(tmp_path):
    table = pa.table(GOOD)
    pq.write_table(table, tmp_path / "x", row_group_size=2)
    assert parquet.is_parquet(tmp_path / "x")
    assert read(tmp_path / "x", list(GOOD)) == table.to_pydict()
    assert read(tmp_path / "x", list(GOOD), classes=list(GOOD)) == table.to_pydict()
    for name in GOOD:
        assert read(tmp_path / "x", [name]) == {name: table[name].to_pylist()}
    numbers = [rows.numbers.tolist() for rows in parquet.read_rows(tmp_path / "x", ["whole"])]
    assert [n for some in numbers for n in some] == [1, 2, 3]
    assert parquet.text_columns(tmp_path / "x") == {"text", "large", "categories", "with.dot", "with"}


BAD = {
    "list": pa.array([[1], [2]]),
    "struct": pa.array([{"a": 1}, {"a": 2}]),
    "map": pa.array([[("a", 1)], []], pa.map_(pa.string(), pa.int32())),
    "time": pa.array([1, 2], pa.timestamp("s")),
    "date": pa.array([datetime.date(2020, 1, 1)] * 2),
    "span": pa.array([1, 2], pa.duration("s")),
    "bytes": pa.array([b"a", b"b"]),
    "dates": pa.array([datetime.date(2020, 1, 1)] * 2).dictionary_encode(),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("classes", [(), ("x",)])
def test_a_column_of_another_type_is_named_with_it(tmp_path, name, classes):
    pq.write_table(pa.table({"x": BAD[name], "y": [1, 2]}), tmp_path / "t")
    with pytest.raises(ValueError, match=r"in the column 'x' of .*t, got .*; convert it"):
        read(tmp_path / "t", ["x"], classes=classes)
    assert read(tmp_path / "t", ["y"]) == {"y": [1, 2]}


def test_decimals_are_numbers_and_no_classes(tmp_path):
    pq.write_table(pa.table({"x": [decimal.Decimal("1.50")]}), tmp_path / "t")
    assert read(tmp_path / "t", ["x"]) == {"x": [decimal.Decimal("1.50")]}
    with pytest.raises(ValueError, match="expected whole numbers or text in the column 'x'"):
        read(tmp_path / "t", ["x"], classes=["x"])


def test_missing_columns_and_those_there_twice_are_named(tmp_path):
    twice = pa.Table.from_arrays([pa.array([1]), pa.array([2]), pa.array([3])], ["x", "x", "Age"])
    pq.write_table(twice, tmp_path / "t")
    with pytest.raises(ValueError, match=r"expected one column 'x', got 2 in .*t; rename them"):
        read(tmp_path / "t", ["x"])
    with pytest.raises(ValueError, match=r"found no 'age' in .*t, which has 'x', 'x', 'Age'; nearest: 'Age'"):
        read(tmp_path / "t", ["age"])


def test_damaged_files_are_one_kind_of_error(tmp_path):
    pq.write_table(pa.table({"x": list(range(500)), "y": [str(i % 7) for i in range(500)]}), tmp_path / "t")
    whole, draw, refused = (tmp_path / "t").read_bytes(), random.Random(0), 0
    for _ in range(400):
        data = bytearray(whole)
        for _ in range(draw.choice([1, 5])):
            data[draw.randrange(len(data)) if draw.random() < 0.3 else -draw.randrange(1, 400)] = draw.randrange(256)
        (tmp_path / "t").write_bytes(data[: draw.choice([len(data), draw.randrange(len(data))])])
        try:
            read(tmp_path / "t", ["x", "y"])
        except ValueError:
            refused += 1
    assert refused > 100
    for data in (b"", b"PAR1", b"PAR1" + bytes(40) + b"PAR1", b"PARE" + bytes(40) + b"PARE", b"x,y\n1,2\n"):
        (tmp_path / "t").write_bytes(data)
        with pytest.raises(ValueError, match="expected a whole Parquet file, got a truncated or damaged"):
            read(tmp_path / "t", ["x", "y"])
