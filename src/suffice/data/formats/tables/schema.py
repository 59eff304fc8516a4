"""What the columns of the users' own tables are for, and how their text is written: a small file beside the table.

    labels = "clicked"              # classes, of any type; or numbers with regression = true
    numeric = ["age", "price"]
    categorical = ["city", "device"]
    log1p = ["price"]               # of the numeric ones
    regression = false
    order = "time"                  # rows are in order of time: split by it, not at random
    missing = ["NA", "nan"]         # text that means that a value is missing, beside nothing

Of delimited text only:

    delimiter = ";"                 # "," if not given
    quote = ""                      # none: quotes are characters like others; '"' if not given
    multiline = true                # quoted values may hold line ends
    encoding = "latin-1"            # UTF-8, or what the byte order mark says, if not given
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
    """A schema: its keys."""

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
        """All of them."""
        return [*self.numeric, *self.categorical, self.labels]

    @property
    def named(self) -> list[str]:
        """Those whose values are names rather than numbers."""
        return [*self.categorical, *([] if self.regression else [self.labels])]

    @property
    def numbers(self) -> list[str]:
        """Those whose values are numbers."""
        return [*self.numeric, *([self.labels] if self.regression else [])]

    @property
    def dialect(self) -> Dialect:
        """How rows of text are written."""
        return Dialect(self.delimiter, self.quote, self.multiline, text=True)

    def roles(self) -> dict[str, Any]:
        """What the columns are for, to be recorded."""
        lists = {"numeric": self.numeric, "categorical": self.categorical, "log1p": self.log1p}
        return {"labels": self.labels, **{k: list(v) for k, v in lists.items()}, "regression": self.regression}


def read(file: Path) -> Schema:
    """A schema, checked.

    Raises:
        FileNotFoundError: if it is not there.
        ValueError: for anything that it should not say.
    """
    if not file.exists():
        raise FileNotFoundError(f"expected a schema in TOML, found none at {describe_path(file)}; docs/data.md shows one")
    if not file.is_file():
        raise ValueError(f"expected a schema in TOML, got {file}, which is no file")
    try:
        said = tomllib.loads(reading.read_file(file).decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"expected a schema in TOML, got {file}: {error}") from error
    for key, value in said.items():
        if key not in _KEYS or not isinstance(value, _KEYS[key]):
            known = ", ".join(f"{k} ({kind.__name__})" for k, kind in _KEYS.items())
            raise ValueError(f"expected {known}, got {key} = {value!r} in {file}")
        if isinstance(value, list) and not all(isinstance(name, str) for name in value):
            raise ValueError(f"expected a list of text, got {key} = {value!r} in {file}")
    if "labels" not in said or not (said.get("numeric") or said.get("categorical")):
        raise ValueError(f"expected labels, and numeric or categorical columns in {file}, got {', '.join(said)}")
    keys: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in said.items()}
    schema = Schema(**keys)
    _check(schema, file)
    return schema


def _check(schema: Schema, file: Path) -> None:
    if schema.order not in ("", "time") or set(schema.log1p) - set(schema.numeric):
        raise ValueError(f"expected order = 'time' or none, and log1p columns among the numeric ones, in {file}")
    twice = [name for name, count in Counter(schema.columns).items() if count > 1]
    if twice:
        raise ValueError(f"expected each column in one role, got {twice[0]!r} in two of them in {file}")
    for key, value in (("delimiter", schema.delimiter), ("quote", schema.quote)):
        one = len(value) == 1 and value.isascii() and not value.isalnum() and value not in "\r\n\0"
        if not one and (key, value) != ("quote", ""):
            raise ValueError(f"expected one sign as the {key}, got {value!r} in {file}")
    if schema.delimiter == schema.quote:
        raise ValueError(f"expected another sign as the quote than as the delimiter {schema.delimiter!r}, in {file}")
    if schema.multiline and not schema.quote:
        raise ValueError(f"expected a quote where values may hold line ends, got multiline = true without, in {file}")
    if schema.encoding is not None:
        encodings.check(schema.encoding)
