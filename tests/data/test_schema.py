import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from suffice.data import import_set, load, text

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
def test_a_table_of_ones_own_is_imported_and_loaded(tmp_path, table, form):
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
    assert repr(data.test) == f"Table(12 of 2 numeric, 1 categorical, labels={data.test.columns.labels!r})"
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
        ("x,Ulm,yes,12,old\n", r"row 4 of .*visits.csv: expected age as float32, got old"),
        ("x,Ulm,,12,3\n", r"row 4 of .*visits.csv: expected a value of clicked, got none"),
        ("x,Ulm,yes\n", r"a row of .*visits.csv that begins 'x,Ulm,yes': expected 5 fields, got 3"),
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
    monkeypatch.setattr(text, "BLOCK", 1000)
    stored = import_set("visits", **write(tmp_path, table, "csv"))
    assert stored.table("rows")["age"].to_pylist() == table["age"].to_pylist()


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ("labels = ", "expected a schema in TOML"),
        ('labels = "clicked"\nages = ["age"]\nnumeric = ["age"]', "expected labels \\(str\\), .* got ages"),
        ('labels = 3\nnumeric = ["age"]', "got labels = 3"),
        ('labels = "clicked"', "expected labels, and numeric or categorical columns"),
        ('labels = "clicked"\nnumeric = ["age"]\nlog1p = ["price"]', "log1p columns among the numeric ones"),
        ('labels = "clicked"\nnumeric = ["age"]\norder = "size"', "expected order = 'time' or none"),
        ('labels = "clicked"\nnumeric = ["weight"]', "found no weight in"),
    ],
)
@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_schema_that_does_not_fit_is_refused(tmp_path, table, schema, message, form):
    with pytest.raises(ValueError, match=message):
        import_set("visits", **write(tmp_path, table, form, schema))


def test_a_known_name_and_a_missing_schema_are_refused(tmp_path, table):
    given = write(tmp_path, table, "csv")
    with pytest.raises(ValueError, match="expected a new name for a table of one's own, got 'criteo'"):
        import_set("criteo", **given)
    with pytest.raises(ValueError, match=r"for a table give a schema \(--schema\)"):
        import_set("visits", given["source"])
    with pytest.raises(FileNotFoundError):
        import_set("visits", given["source"], schema_file=tmp_path / "none.toml")
