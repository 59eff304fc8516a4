import os

import pytest

from suffice.data.formats.tables import schema
from suffice.data.formats.tables.lines import Dialect

WHOLE = """
labels = "clicked"
numeric = ["age", "price"]
categorical = ["city"]
log1p = ["price"]
order = "time"
delimiter = ";"
quote = "'"
multiline = true
encoding = "latin-1"
missing = ["NA", "nan"]
"""


def read(tmp_path, text):
    file = tmp_path / "schema.toml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return schema.read(file)


def test_a_schema_says_what_columns_are_for_and_how_text_is_written(tmp_path):
    found = read(tmp_path, WHOLE)
    assert found.columns == ["age", "price", "city", "clicked"]
    assert found.class_columns == ["city", "clicked"]
    assert found.number_columns == ["age", "price"]
    assert found.dialect == Dialect(";", "'", multiline=True, text=True)
    assert (found.encoding, found.missing, found.order) == ("latin-1", ("NA", "nan"), "time")
    assert found.roles() == {
        "labels": "clicked",
        "numeric": ["age", "price"],
        "categorical": ["city"],
        "log1p": ["price"],
        "regression": False,
    }
    regression = read(tmp_path, 'labels = "y"\nnumeric = ["a"]\nregression = true\n')
    assert (regression.class_columns, regression.number_columns) == ([], ["a", "y"])
    assert regression.dialect == Dialect(",", '"', text=True)


def test_a_byte_order_mark_and_other_line_ends_are_no_matter(tmp_path):
    assert read(tmp_path, b"\xef\xbb\xbf" + WHOLE.replace("\n", "\r\n").encode()) == read(tmp_path, WHOLE)


BASE = 'labels = "y"\nnumeric = ["a"]\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("labels = ", "expected a schema in TOML, got .*schema.toml"),
        (b"labels = '\xe9'", "expected a schema in TOML, got .*schema.toml"),
        (WHOLE.encode("utf-16"), "expected a schema in TOML"),
        ("x = " + "[" * 10_000, "expected a schema in TOML"),
        ("x = " + "1" * 10_000, "expected a schema in TOML"),
        (BASE + "numeric = ['b']", "expected a schema in TOML"),
        (BASE + 'ages = ["age"]', r"expected labels \(str\), .* got ages"),
        ('labels = 3\nnumeric = ["age"]', "got labels = 3"),
        ('labels = "y"\nnumeric = "age"', "got numeric = 'age'"),
        ('labels = "y"\nnumeric = [1]', "expected a list of text, got numeric = "),
        ('labels = "y"', "expected labels, and numeric or categorical columns"),
        ('numeric = ["a"]', "expected labels, and numeric or categorical columns"),
        (BASE + 'log1p = ["price"]', "log1p columns among the numeric columns"),
        (BASE + 'order = "size"', "expected order = 'time' or no order"),
        ('labels = "y"\nnumeric = ["a", "y"]', "expected each column in one role, got 'y' in two of them"),
        ('labels = "y"\nnumeric = ["a", "a"]', "expected each column in one role, got 'a'"),
        (BASE + 'categorical = ["a"]', "expected each column in one role, got 'a'"),
        (BASE + "delimiter = ''", "expected one character as the delimiter, got ''"),
        (BASE + "delimiter = '::'", "expected one character as the delimiter, got '::'"),
        (BASE + "delimiter = 'a'", "expected one character as the delimiter, got 'a'"),
        (BASE + "delimiter = 'é'", "expected one character as the delimiter"),
        (BASE + 'delimiter = "\\n"', "expected one character as the delimiter"),
        (BASE + "quote = '5'", "expected one character as the quote, got '5'"),
        (BASE + "quote = ','", "expected a quote other than the delimiter ','"),
        (BASE + "quote = ''\nmultiline = true", "expected a quote with multiline = true"),
        (BASE + "encoding = 'utf-9'", "expected an encoding, .* got 'utf-9'"),
        (BASE + "encoding = 'zlib'", "expected an encoding, .* got 'zlib'"),
        (BASE + "missing = 'NA'", "got missing = 'NA'"),
    ],
)
def test_an_invalid_schema_is_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, text)


def test_a_schema_that_is_not_there_or_no_file_is_named(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(ValueError, match="which is not a file"):
            schema.read(place)
    with pytest.raises(FileNotFoundError, match=r"none.toml"):
        schema.read(tmp_path / "none.toml")
