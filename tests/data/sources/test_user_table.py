import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from suffice.data import import_set, load
from suffice.data.formats.tables import lines
from suffice.data.sources import user_table
from tests.data.user_tables import decoded_rows, import_arguments

SCHEMA = """
labels = "clicked"
numeric = ["age", "price"]
categorical = ["city"]
log1p = ["price"]
"""


@pytest.fixture
def table():
    draw = np.random.default_rng(0)
    cities = [None if i % 9 == 0 else ["Ulm", "Köln", 'a "b", c', "Bonn"][i % 4] for i in range(120)]
    return pa.table(
        {
            "unused": [str(i) for i in range(120)],
            "city": cities,
            "clicked": [["no", "yes", "maybe"][i % 3] for i in range(120)],
            "price": draw.integers(1, 100, 120) / 4,
            "age": pa.array([None if i % 10 == 0 else i for i in range(120)], pa.int32()),
        }
    )


def write(folder, table, form, schema=SCHEMA):
    from pyarrow import csv

    (folder / "schema.toml").write_text(schema)
    file = folder / f"visits.{form}"
    if form == "csv":
        csv.write_csv(table, file)
    else:
        pq.write_table(table, file, row_group_size=50)
    return {"source": file, "schema_file": folder / "schema.toml"}


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_user_table_is_imported_and_loaded(tmp_path, table, form):
    stored = import_set("visits", **write(tmp_path, table, form))
    assert stored.manifest["parts"] == {"all": 120}
    assert stored.manifest["classes"] == ["maybe", "no", "yes"]
    rows = stored.table("rows")
    assert rows["age"].to_pylist() == table["age"].to_pylist()
    names = stored.table("categories-city")["value"].to_pylist()
    assert [None if c is None else names[c] for c in rows["city"].to_pylist()] == table["city"].to_pylist()
    data = load("visits", validation=12, test=12, seed=1)
    assert (len(data.train), len(data.validation), len(data.test)) == (96, 12, 12)
    assert data.train.sizes == (5,)
    assert data.classes == ("maybe", "no", "yes")
    assert repr(data.test) == f"TableSplit(12 of 2 numeric, 1 categorical, labels={data.test.columns.labels!r})"
    assert torch.bincount(data.test.labels).tolist() == [4, 4, 4]
    (batch,) = data.test.batches()
    prices = table["price"].to_numpy()
    assert all(np.abs(np.log1p(prices) - float(x)).min() < 1e-6 for x in batch["numeric"][:, 1])


def test_labels_that_are_numbers_keep_their_order(tmp_path, table):
    labels = pa.array([i % 12 for i in range(120)])
    table = table.set_column(2, "clicked", labels)
    stored = import_set("visits", **write(tmp_path, table, "csv"))
    assert stored.table("rows")["clicked"].to_pylist() == labels.to_pylist()


def test_regression_keeps_the_labels_as_they_are_and_time_splits_at_the_end(tmp_path, table):
    schema = 'labels = "price"\nnumeric = ["age"]\nregression = true\norder = "time"\n'
    import_set("visits", **write(tmp_path, table, "csv", schema))
    data = load("visits", validation=20, test=10)
    np.testing.assert_allclose(data.test.labels, table["price"].to_numpy()[-10:], rtol=1e-6)
    assert data.test.labels.dtype == torch.float32
    assert data.classes == ()


def test_categories_first_seen_after_training_are_unknown(tmp_path):
    rows = pa.table({"clicked": [0, 1] * 10, "age": [1] * 20, "price": [1] * 20, "city": ["a"] * 15 + ["new"] * 5})
    import_set("visits", **write(tmp_path, rows, "csv", SCHEMA + 'order = "time"\n'))
    data = load("visits", validation=2, test=5)
    (batch,) = data.test.batches()
    assert batch["categorical"].tolist() == [[0]] * 5
    assert data.test.unknown() == {"city": 5}
    assert data.train.unknown() == {"city": 0}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("x,Ulm,yes,12,old\n", r"line 5 of .*visits.csv: expected age as a finite number, got 'old'"),
        ("x,Ulm,,12,3\n", r"line 5 of .*visits.csv: expected clicked as a value, got none"),
        ("x,Ulm,yes\n", r"line 5 of .*visits.csv: expected 5 fields, got 3"),
    ],
)
def test_a_malformed_row_is_refused_or_left_out_and_counted(tmp_path, store_folder, line, message):
    good = "x,Ulm,yes,12,3\n"
    (tmp_path / "schema.toml").write_text(SCHEMA)
    (tmp_path / "visits.csv").write_text(
        f"unused,city,clicked,price,age\n{good * 3}{line}{good.replace('Ulm', 'Bonn')}"
    )
    given = {"source": tmp_path / "visits.csv", "schema_file": tmp_path / "schema.toml"}
    with pytest.raises(ValueError, match=message):
        import_set("visits", **given)
    assert not (store_folder / "visits").exists()
    stored = import_set("visits", **given, bad="skip")
    assert stored.manifest["skipped"]["count"] == 1
    assert stored.table("rows")["city"].to_pylist() == [0, 0, 0, 1]


def test_large_csv_is_read_in_blocks(tmp_path, table, monkeypatch):
    monkeypatch.setattr(lines, "BLOCK", 1000)
    stored = import_set("visits", **write(tmp_path, table, "csv"))
    assert stored.table("rows")["age"].to_pylist() == table["age"].to_pylist()


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_column_that_is_missing_is_named_with_those_that_there_are(tmp_path, table, form):
    given = write(tmp_path, table, form, 'labels = "clicked"\nnumeric = ["ages"]')
    message = "expected the columns 'ages', 'clicked', found no 'ages' in .*, which has 'unused', .*nearest: 'age'"
    with pytest.raises(ValueError, match=message):
        import_set("visits", **given)


def test_a_known_name_and_a_missing_schema_are_refused(tmp_path, table):
    given = write(tmp_path, table, "csv")
    with pytest.raises(ValueError, match="expected a new name for your own table, got 'criteo'"):
        import_set("criteo", **given)
    with pytest.raises(ValueError, match=r"for a table pass a schema \(--schema\)"):
        import_set("visits", given["source"])
    with pytest.raises(FileNotFoundError):
        import_set("visits", given["source"], schema_file=tmp_path / "none.toml")


def test_columns_that_are_not_wanted_may_be_anything(tmp_path):
    text = "y,x,a,x,c,,\n0,nan,1,,k,1e400,\n1,1,2,x,l,,\n"
    assert decoded_rows(import_set(**import_arguments(tmp_path, text))) == {
        "a": [1, 2],
        "c": ["k", "l"],
        "y": ["0", "1"],
    }


def test_a_table_without_valid_rows_is_refused_with_the_first_reason(tmp_path):
    with pytest.raises(
        ValueError, match=r"found none that could be imported, 2 malformed, such as line 2 of .*got 'x'"
    ):
        import_set(**import_arguments(tmp_path, "y,a,c\n0,x,k\n1,x,k\n"), bad="skip")


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["-1", "0", "10", "9"], ["-1", "0", "9", "10"]),
        (["10.5", "2.5", "1e1"], ["2.5", "1e1", "10.5"]),
        (["b", "a", "10", "9"], ["10", "9", "a", "b"]),
        (["9007199254740993", "9007199254740992"], ["9007199254740992", "9007199254740993"]),
        (["Nan", "x"], ["Nan", "x"]),
        (["None", "null"], ["None", "null"]),
        (["[red]x", "[/]"], ["[/]", "[red]x"]),
    ],
)
def test_classes_are_in_the_order_of_their_numbers_or_letters(tmp_path, labels, expected):
    text = "y,a,c\n" + "".join(f"{label},1,x\n" for label in labels)
    stored = import_set(**import_arguments(tmp_path, text))
    assert stored.manifest["classes"] == expected
    assert decoded_rows(stored)["y"] == labels


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([float(i % 12) for i in range(60)], [float(i) for i in range(12)]),
        ([True, False], [False, True]),
        (pa.array([3, 1, 2], pa.uint8()), [1, 2, 3]),
        (pa.array(["b", "a"]).dictionary_encode(), ["a", "b"]),
        (pa.array(["b", "a"], pa.large_string()), ["a", "b"]),
        ([0.0, -0.0, 1.0], [0.0, 1.0]),
        ([-(2**60), 2**60, 2**60 + 1], [-(2**60), 2**60, 2**60 + 1]),
    ],
)
def test_classes_of_parquet_are_in_order_too(tmp_path, labels, expected):
    columns = {"y": labels, "a": [1.0] * len(labels), "c": ["x"] * len(labels)}
    stored = import_set(**import_arguments(tmp_path, columns))
    assert stored.manifest["classes"] == expected
    values = labels if isinstance(labels, list) else labels.to_pylist()
    assert decoded_rows(stored)["y"] == values
    assert load("mine", validation=0, test=0).classes == tuple(map(str, expected))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"y": [0, None]}, "row 2 of .*: expected y as a value, got none"),
        ({"y": [0.0, float("nan")]}, "row 2 of .*: expected y as a finite number, got nan"),
        ({"y": [0.0, float("inf")]}, "row 2 of .*: expected y as a finite number, got inf"),
        ({"y": [None, None]}, "row 1 of .*: expected y as a value, got none"),
        ({"y": ["a", "nan"]}, "row 2 of .*: expected y as a value, got 'nan'"),
        ({"a": [1.0, float("nan")]}, "row 2 of .*: expected a as a finite number, got nan"),
        ({"a": [1.0, 1e39]}, "row 2 of .*: expected a as a finite number, got 1e[+]39"),
        ({"a": ["1", "x"]}, "row 2 of .*: expected a as a finite number, got 'x'"),
        ({"c": [1.0, float("nan")]}, "row 2 of .*: expected c as a finite number, got nan"),
        ({"a": pa.array([1, 2], pa.timestamp("s"))}, r"in the column 'a' of .*, got timestamp\[.*\]; convert it"),
        ({"c": [[1], [2]]}, "in the column 'c' of .*, got list<"),
        ({"y": [b"a", b"b"]}, "in the column 'y' of .*, got binary"),
        ({"y": []}, "expected rows in .*, found none"),
    ],
)
def test_parquet_has_the_same_rules(tmp_path, columns, message):
    count = len(next(iter(columns.values())))
    whole = {"y": [0, 1][:count], "a": [1.0, 2.0][:count], "c": ["x", "y"][:count]}
    with pytest.raises(ValueError, match=message):
        import_set(**import_arguments(tmp_path, {**whole, **columns}))


def test_numbers_of_parquet_are_rounded_as_those_of_text_are(tmp_path):
    for a in ([2**24 + 1, None], [0.1, None], [True, None], ["16777217", None]):
        stored = import_set(**import_arguments(tmp_path, {"y": [0, 1], "a": a, "c": ["x", None]}))
        assert decoded_rows(stored)["a"] == [float(np.float32(float(a[0]))), None]


NAMES = ["c/d", "../x", "a.b", "[red]", "a\x1b[31m", "C", "c", "x" * 300, "Straße", ".", "", " ", "categories-0"]


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_columns_of_any_name_are_kept_whatever_files_may_be_called(tmp_path, form):
    columns = {"y": ["0", "1"], "a": ["1", "2"], **{name: [f"{i}", None] for i, name in enumerate(NAMES)}}
    if form == "csv":
        from pyarrow import csv

        csv.write_csv(pa.table(columns), tmp_path / "t.csv")
        columns = (tmp_path / "t.csv").read_bytes()
    schema = f"labels = 'y'\nnumeric = ['a']\ncategorical = {json.dumps(NAMES)}\n"
    stored = import_set(**import_arguments(tmp_path, columns, schema))
    rows = decoded_rows(stored)
    assert {name: rows[name] for name in NAMES} == {name: [f"{i}", None] for i, name in enumerate(NAMES)}
    files = [name.lower() for name in stored.manifest["files"]]
    assert len(files) == len(set(files)) == 1 + len(NAMES)
    data = load("mine", validation=0, test=0)
    (batch,) = data.train.batches()
    assert batch["categorical"].shape == (2, len(NAMES))


def test_labels_that_are_all_different_are_taken_for_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(user_table, "MOST_CLASSES", 100)
    text = "y,a,c\n" + "".join(f"{i / 7},1,x\n" for i in range(101))
    with pytest.raises(ValueError, match=r"expected at most 100 classes as 'y', got more in .*regression = true"):
        import_set(**import_arguments(tmp_path, text))
    schema = "labels = 'y'\nnumeric = ['a']\nregression = true\n"
    assert (
        load(import_set(**import_arguments(tmp_path, text, schema)).manifest["name"]).train.labels.dtype
        == torch.float32
    )
    with pytest.raises(ValueError, match=r"line 3 of .*: expected y as a (finite number|value), got 'nan'"):
        import_set(**import_arguments(tmp_path, "y,a\n1,2\nnan,3\n", schema))


def test_a_class_that_occurs_in_malformed_rows_only_is_none(tmp_path):
    stored = import_set(**import_arguments(tmp_path, "y,a,c\n0,1,x\n1,2,x\n2,old,x\n3,1\n"), bad="skip")
    assert stored.manifest["classes"] == ["0", "1"]
    assert stored.manifest["skipped"]["count"] == 2


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path, monkeypatch):
    source = import_arguments(tmp_path, "y,a,c\n0,1,x\n1,2,x\n")
    classes = user_table._classes

    def changing(schema, file, bad_records):
        found = classes(schema, file, bad_records)
        file.write_text("y,a,c\n0,1,x\n2,2,x\n")
        return found

    monkeypatch.setattr(user_table, "_classes", changing)
    with pytest.raises(ValueError, match="to stay unchanged during the import, got other labels"):
        import_set(**source)


def test_a_pipe_or_a_device_never_blocks(tmp_path):
    import os

    os.mkfifo(tmp_path / "t.csv")
    (tmp_path / "s.toml").write_text("labels = 'y'\nnumeric = ['a']\n")
    for source, options in ((tmp_path / "t.csv", {"schema_file": tmp_path / "s.toml"}), ("/dev/null", {})):
        for name in ("mine", "criteo") if not options else ("mine",):
            with pytest.raises(ValueError, match=r"expected .*, a file or a folder, got (the|a) "):
                import_set(name, source, **options)
