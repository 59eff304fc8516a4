import json
import random

import pytest

from suffice.data import import_set
from suffice.data.formats.tables import lines
from tests.data.user_tables import decoded_rows, import_arguments

ROWS = "".join(f"{i % 2},{i},k\n" for i in range(1000))


def test_one_stray_quote_is_refused_by_its_line_and_costs_that_alone(tmp_path, store_folder):
    text = "y,a,c\n" + ROWS.replace("0,4,k\n", '0,4,"k\n')
    with pytest.raises(ValueError, match=r"^line 6 of .*t.csv: expected quotes in pairs on each line"):
        import_set(**import_arguments(tmp_path, text))
    assert not (store_folder / "mine").exists()
    stored = import_set(**import_arguments(tmp_path, text, bad="skip"))
    assert stored.manifest["parts"] == {"all": 999}
    assert stored.manifest["skipped"]["count"] == 1
    assert decoded_rows(stored)["a"] == [i for i in range(1000) if i != 4]


@pytest.mark.parametrize("lines_with_quotes", [(4, 9), (4, 500), (0, 999)])
@pytest.mark.parametrize("multiline", [False, True])
def test_two_stray_quotes_far_apart_are_never_one_value(tmp_path, lines_with_quotes, multiline):
    rows = ROWS.splitlines()
    first, second = lines_with_quotes
    rows[first], rows[second] = rows[first].replace("k", '"k'), rows[second].replace("k", 'k"')
    schema = f'labels = "y"\nnumeric = ["a"]\ncategorical = ["c"]\nmultiline = {str(multiline).lower()}\n'
    source = import_arguments(tmp_path, "y,a,c\n" + "\n".join(rows), schema)
    if multiline:  # then the schema makes it a single value
        assert import_set(**source).manifest["parts"] == {"all": 1000 - (second - first)}
        return
    with pytest.raises(ValueError, match=rf"^line {first + 2} of"):
        import_set(**source)
    assert import_set(**source, bad="skip").manifest["parts"] == {"all": 998}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1", "cp1252"])
@pytest.mark.parametrize("feed", ["\n", "\r\n", "\r"])
def test_a_table_in_any_encoding_and_with_any_line_ends_is_read_or_refused_with_the_remedy(tmp_path, encoding, feed):
    text = feed.join(["y,a,c", *(f"{i % 2},{i}.5,é{i % 3}" for i in range(30))])
    source = import_arguments(tmp_path, text.encode(encoding))
    if encoding in ("utf-16-le", "latin-1", "cp1252"):
        with pytest.raises(ValueError, match=r"state the file's encoding in the schema"):
            import_set(**source)
        source["schema_file"].write_text(source["schema_file"].read_text() + f"encoding = '{encoding}'\n")
    assert decoded_rows(import_set(**source)) == {
        "a": [i + 0.5 for i in range(30)],
        "c": [f"é{i % 3}" for i in range(30)],
        "y": [str(i % 2) for i in range(30)],
    }


def test_other_delimiters_are_read_if_stated_and_suggested_if_not(tmp_path):
    for delimiter, called in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
        text = "y,a,c\n0,1,'x,y'\n1,2,z\n".replace(",", delimiter)
        with pytest.raises(ValueError, match=rf"delimited by {called}: set delimiter = .* in the schema"):
            import_set(**import_arguments(tmp_path, text))
        signs = f'delimiter = {json.dumps(delimiter)}\nquote = "\'"\n'
        schema = f"labels = 'y'\nnumeric = ['a']\ncategorical = ['c']\n{signs}"
        assert decoded_rows(import_set(**import_arguments(tmp_path, text, schema)))["c"] == [f"x{delimiter}y", "z"]
    text = 'y,a,c\n0,1,5"\n1,2,"z\n'
    with pytest.raises(ValueError, match=r"line 2 of .*: expected quotes around whole values"):
        import_set(**import_arguments(tmp_path, text))
    schema = "labels = 'y'\nnumeric = ['a']\ncategorical = ['c']\nquote = ''\n"
    assert decoded_rows(import_set(**import_arguments(tmp_path, text, schema)))["c"] == ['5"', '"z']


def test_values_with_line_ends_are_read_if_multiline_is_set(tmp_path):
    text = 'y,a,c\n0,1,"x\ny"\n1,2,"a ""b"", c"\n'
    with pytest.raises(ValueError, match=r"line 2 of .*\(or multiline = true in a schema\)"):
        import_set(**import_arguments(tmp_path, text))
    schema = "labels = 'y'\nnumeric = ['a']\ncategorical = ['c']\nmultiline = true\n"
    assert decoded_rows(import_set(**import_arguments(tmp_path, text, schema)))["c"] == ["x\ny", 'a "b", c']


def test_missing_values_are_listed_in_the_schema(tmp_path):
    text = "y,a,c\n0,nan,?\n1,NA,x\nNA,1,x\n1,2,nan\n"
    with pytest.raises(
        ValueError, match=r"line 2 of .*: expected a as .*, got 'nan'; list the texts that mark missing values"
    ):
        import_set(**import_arguments(tmp_path, text))
    schema = "labels = 'y'\nnumeric = ['a']\ncategorical = ['c']\nmissing = ['nan', 'NA', '?']\n"
    with pytest.raises(ValueError, match=r"line 4 of .*: expected y as a value, got none"):
        import_set(**import_arguments(tmp_path, text, schema))
    stored = import_set(**import_arguments(tmp_path, text, schema), bad="skip")
    expected = {"a": [None, None, 2], "c": [None, "x", None], "y": ["0", "1", "1"]}
    assert decoded_rows(stored) == expected
    columns = {"y": ["0", "1", "NA", "1"], "a": ["nan", "NA", "1", "2"], "c": ["?", "x", "x", "nan"]}
    assert decoded_rows(import_set(**import_arguments(tmp_path, columns, schema), bad="skip")) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a header, got .*t.csv, which is empty"),
        ("\n\r\n", "expected a header, got .*t.csv, which is empty"),
        ("y,a,c\n", r"expected rows in .*t.csv, found none that could be imported$"),
        ("y,a,c", r"expected rows in .*t.csv, found none that could be imported$"),
        ("y,a,c\n\n\n", r"expected rows in .*t.csv, found none that could be imported$"),
        ("y,a,c,a\n0,1,x,1\n", "expected one column 'a', got 2 in .*t.csv; rename them"),
        ("y,a,y,c\n0,1,0,x\n", "expected one column 'y', got 2"),
        ("y, a,c\n0,1,x\n", "found no 'a' in .*, which has 'y', ' a', 'c'; nearest: ' a'"),
        ("Y,A,C\n0,1,x\n", "found no 'a', 'c', 'y' in .*nearest: 'A', 'C', 'Y'"),
        ('y,a,"c\n0,1,x\n', "expected a header at the beginning of .*t.csv, got a malformed one"),
        ('y,a,"c"x\n0,1,x\n', "expected a header at the beginning of .*t.csv, got a malformed one"),
        ("y,a,c\n0,1\n", "line 2 of .*: expected 3 fields, got 2"),
        ("y,a,c\n0,1,x,\n", "line 2 of .*: expected 3 fields, got 4"),
        ("y,a,c\n0,1,x\n\n1,1,x,x\n", "line 4 of .*: expected 3 fields, got 4"),
        ("y,a,c\n0,1,x\0\n", "line 2 of .*: expected text, got a null byte"),
        ("y,a,c\0\n0,1,x\n", "expected a header, got null bytes in .*t.csv; state the file's encoding"),
        ("y,a,c\n,1,x\n", "line 2 of .*: expected y as a value, got none"),
        ('y,a,c\n"",1,x\n', "line 2 of .*: expected y as a value, got none"),
        ("y,a,c\nnan,1,x\n", "line 2 of .*: expected y as a value, got 'nan'"),
        ("y,a,c\ninf,1,x\n", "line 2 of .*: expected y as a value, got 'inf'"),
        ('y,a,c\n0,"1,5",x\n', "line 2 of .*: expected a as a finite number, got '1,5'"),
        ("y,a,c\n0,1e400,x\n", "line 2 of .*: expected a as a finite number, got '1e400'"),
        ("y,a,c\n0,1,x\n1.0,1,x\n1,1,x\n", "expected one spelling of each class in 'y' in .*, got '1' and '1.0'"),
        ("y,a,c\ncat,1,x\ncat ,1,x\n", "expected one spelling of each class in 'y' in .*, got 'cat' and 'cat '"),
    ],
)
def test_an_invalid_table_is_one_error_that_names_the_file_and_the_line(tmp_path, store_folder, text, message):
    with pytest.raises(ValueError, match=message):
        import_set(**import_arguments(tmp_path, text))
    assert not (store_folder / "mine").exists()


def test_every_row_of_a_file_is_kept_or_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "BLOCK", 400)
    draw = random.Random(0)
    good, rows = 0, []
    for i in range(500):
        row = [str(i % 3), str(i), draw.choice(["x", '"a, b"', '"a ""b"""', "é"])]
        if draw.random() < 0.2:
            quotes = [[*row[:2], '"x'], [*row[:2], 'x"']]
            row = draw.choice([row[:2], [*row, ""], [row[0], "old", "x"], ["", "1", "x"], *quotes])
        else:
            good += 1
        rows.append(",".join(row))
    stored = import_set(**import_arguments(tmp_path, "y,a,c\n" + "\n".join(rows)), bad="skip")
    assert stored.manifest["parts"] == {"all": good}
    assert stored.manifest["skipped"]["count"] == 500 - good


def test_the_format_of_a_file_is_detected_by_its_first_bytes(tmp_path):
    columns = {"y": [0, 1], "a": [1.0, 2.0], "c": ["x", "y"]}
    assert import_set(**import_arguments(tmp_path, columns, name="t.csv")).manifest["parts"] == {"all": 2}
    assert import_set(**import_arguments(tmp_path, "y,a,c\n0,1,x\n", name="t.parquet")).manifest["parts"] == {"all": 1}
    with pytest.raises(ValueError, match="which is not a file"):
        import_set("mine", tmp_path, schema_file=tmp_path / "s.toml")
    with pytest.raises(ValueError, match="compressed with gzip; decompress it first"):
        import_set(**import_arguments(tmp_path, b"\x1f\x8b\x08" + bytes(20)))
