"""Sources of a user's own table, and the rows that an import stored."""

import pyarrow as pa
import pyarrow.parquet as pq


def import_arguments(
    folder, data, schema='labels = "y"\nnumeric = ["a"]\ncategorical = ["c"]\n', name="t.csv", **options
):
    """Write a table (text, bytes, or columns as Parquet) and a schema; return the arguments of `import_set`."""
    (folder / "s.toml").write_text(schema)
    if isinstance(data, dict):
        pq.write_table(pa.table(data), folder / name)
    else:
        (folder / name).write_bytes(data.encode() if isinstance(data, str) else data)
    return {"name": "mine", "source": folder / name, "schema_file": folder / "s.toml", **options}


def decoded_rows(stored):
    """Return the stored columns by name, with classes and categories decoded."""
    rows = stored.table("rows").to_pydict()
    for column, file in stored.manifest["categories"].items():
        names = stored.table(file)["value"].to_pylist()
        rows[column] = [None if code is None else names[code] for code in rows[column]]
    if "classes" in stored.manifest:
        rows["y"] = [stored.manifest["classes"][code] for code in rows["y"]]
    return rows
