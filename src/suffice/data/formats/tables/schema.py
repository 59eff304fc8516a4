"""Schema of a user's own table: a TOML file with the roles of the columns and the syntax of the text.

    labels = "clicked"              # classes of any type; or numbers with regression = true
    numeric = ["age", "price"]
    categorical = ["city", "device"]
    log1p = ["price"]               # numeric columns to transform
    regression = false
    order = "time"                  # rows are ordered by time: split by time, not at random
    missing = ["NA", "nan"]         # texts that mark missing values, besides the empty one

For delimited text only:

    delimiter = ";"                 # default ","
    quote = ""                      # none: quotes have no special meaning; default '"'
    multiline = true                # quoted values may contain line ends
    encoding = "latin-1"            # default: that of the byte order mark, or UTF-8
"""

import tomllib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from suffice.data.formats.tables import encodings
from suffice.data.formats.tables.lines import Dialect
from suffice.storage import reading
from suffice.storage.paths import describe_path

_KEYS = {
    "labels": str,
    "numeric": list,
    "categorical": list,
    "log1p": list,
    "regression": bool,
    "order": str,
    "delimiter": str,
    "quote": str,
    "multiline": bool,
    "encoding": str,
    "missing": list,
}


@dataclass(frozen=True)
class Schema:
    """Schema of a user's own table; the attributes are the keys of the file (see the module).

    Attributes:
        labels: Target column.
        numeric: Columns of numbers.
        categorical: Columns of categories.
        log1p: Numeric columns that `load` transforms to sign(x)·log(1 + |x|).
        regression: Labels are numbers instead of classes.
        order: `time` if the rows are ordered by time, else empty.
        delimiter: Delimiter between fields.
        quote: Quote around values; empty for none.
        multiline: Quoted values may contain line ends.
        encoding: Encoding of the text; None: that of the byte order mark, or UTF-8.
        missing: Texts that mark missing values.
    """

    labels: str
    numeric: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    log1p: tuple[str, ...] = ()
    regression: bool = False
    order: str = ""
    delimiter: str = ","
    quote: str = '"'
    multiline: bool = False
    encoding: str | None = None
    missing: tuple[str, ...] = ()

    @property
    def columns(self) -> list[str]:
        """Names of all columns."""
        return [*self.numeric, *self.categorical, self.labels]

    @property
    def class_columns(self) -> list[str]:
        """Names of the columns whose values are classes or categories."""
        return [*self.categorical, *([] if self.regression else [self.labels])]

    @property
    def number_columns(self) -> list[str]:
        """Names of the columns whose values are numbers."""
        return [*self.numeric, *([self.labels] if self.regression else [])]

    @property
    def dialect(self) -> Dialect:
        """Syntax of the text."""
        return Dialect(self.delimiter, self.quote, self.multiline, text=True)

    def roles(self) -> dict[str, Any]:
        """Return the roles of the columns, for the manifest."""
        lists = {"numeric": self.numeric, "categorical": self.categorical, "log1p": self.log1p}
        return {"labels": self.labels, **{k: list(v) for k, v in lists.items()}, "regression": self.regression}


def read(file: Path) -> Schema:
    """Read and check a schema file.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it is not TOML, or has an unknown key or an invalid value.
    """
    if not file.exists():
        raise FileNotFoundError(
            f"expected a schema in TOML, found none at {describe_path(file)}; docs/data.md shows one"
        )
    if not file.is_file():
        raise ValueError(f"expected a schema in TOML, got {file}, which is not a file")
    try:
        entries = tomllib.loads(reading.read_file(file).decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"expected a schema in TOML, got {file}: {error}") from error
    for key, value in entries.items():
        if key not in _KEYS or not isinstance(value, _KEYS[key]):
            known = ", ".join(f"{k} ({kind.__name__})" for k, kind in _KEYS.items())
            raise ValueError(f"expected {known}, got {key} = {value!r} in {file}")
        if isinstance(value, list) and not all(isinstance(name, str) for name in value):
            raise ValueError(f"expected a list of text, got {key} = {value!r} in {file}")
    if "labels" not in entries or not (entries.get("numeric") or entries.get("categorical")):
        raise ValueError(f"expected labels, and numeric or categorical columns in {file}, got {', '.join(entries)}")
    keys: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in entries.items()}
    schema = Schema(**keys)
    _check(schema, file)
    return schema


def _check(schema: Schema, file: Path) -> None:
    if schema.order not in ("", "time") or set(schema.log1p) - set(schema.numeric):
        raise ValueError(f"expected order = 'time' or no order, and log1p columns among the numeric columns, in {file}")
    repeated = [name for name, count in Counter(schema.columns).items() if count > 1]
    if repeated:
        raise ValueError(f"expected each column in one role, got {repeated[0]!r} in two of them in {file}")
    for key, value in (("delimiter", schema.delimiter), ("quote", schema.quote)):
        valid = len(value) == 1 and value.isascii() and not value.isalnum() and value not in "\r\n\0"
        if not valid and (key, value) != ("quote", ""):
            raise ValueError(f"expected one character as the {key}, got {value!r} in {file}")
    if schema.delimiter == schema.quote:
        raise ValueError(f"expected a quote other than the delimiter {schema.delimiter!r}, in {file}")
    if schema.multiline and not schema.quote:
        raise ValueError(f"expected a quote with multiline = true, got none in {file}")
    if schema.encoding is not None:
        encodings.check(schema.encoding)
