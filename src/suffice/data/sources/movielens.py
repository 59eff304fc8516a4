"""MovieLens: 100,000, 1 million and 25 million ratings of films by users (Harper and Konstan 2015).

The three releases are stored in one format: `rows` with user, movie, rating and timestamp, and the tables `movies` and
(if published) `users`. The compact copy of 1M has a five-fold split and no timestamps.
"""

import io
from functools import partial
from pathlib import Path
from typing import Any

from suffice.data.formats.tables import headers, lines, parquet, text, values
from suffice.data.formats.tables.lines import Dialect
from suffice.data.formats.tables.values import Rows
from suffice.data.store import archives
from suffice.data.store.bad_records import BadRecords
from suffice.data.store.entry import CatalogEntry, Remote, find_folder
from suffice.data.store.writer import DatasetWriter

_LARGEST = 64 << 20
_KINDS = {"user": "uint32", "movie": "uint32", "rating": "float32", "timestamp": "int64"}
_COLUMNS = {"labels": "rating", "categorical": ["user", "movie"], "regression": True}
_GENRES = [
    "unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
]
_RATINGS = {"100k": "u.data", "1m": "ratings.dat", "25m": "ratings.csv"}
_FILMS = {"100k": "u.item", "1m": "movies.dat", "25m": "movies.csv"}
_USERS = {"100k": "u.user", "1m": "users.dat"}
_USER_FIELDS = {
    "100k": ("user", "age", "gender", "occupation", "zip_code"),
    "1m": ("user", "gender", "age", "occupation", "zip_code"),
}

_LOWEST, _HIGHEST = 0.5, 5
"""Range of the ratings."""
_DIGITS = 10
"""Upper limit of the number of digits of an integer."""

ColumnLists = dict[str, list[Any]]
Line = tuple[str, list[str]]
"""Location of a line, for messages, and its fields."""


def convert(release: str, source: Path, writer: DatasetWriter, bad_records: BadRecords) -> None:
    """Import the official zip, its unpacked folder, or (for 1M) the compact Parquet files."""
    writer.manifest["columns"] = _COLUMNS
    compact = find_folder(source, "movielens", "ratings.parquet", "users.parquet", "movies.parquet")
    if compact is not None:
        if release != "1m":
            raise ValueError(f"expected movielens-1m from the compact files in {compact}, got movielens-{release}")
        _convert_compact(compact, writer, bad_records)
        return
    names = [file for file in (_RATINGS[release], _FILMS[release], _USERS.get(release)) if file is not None]
    for name, member in archives.find_members(source, names):
        if name == _RATINGS[release]:
            writer.manifest["parts"] = {"all": _write_ratings(release, member, writer, bad_records)}
        elif name == _FILMS[release]:
            _write_table(writer, "movies", _read_films(release, member))
        else:
            _write_table(writer, "users", _read_users(release, member))


def _convert_compact(folder: Path, writer: DatasetWriter, bad_records: BadRecords) -> None:
    import pyarrow as pa

    file, count = folder / "ratings.parquet", 0
    names = {"user_id": "user", "movie_id": "movie", "rating": "rating", "fold": "fold"}
    kinds = {**_KINDS, "fold": "uint8"}
    with writer.table("rows", pa.schema(list(kinds.items()))) as append:
        for rows in parquet.read_rows(file, list(names)):
            table = rows.table.rename_columns(list(names.values()))
            table = table.append_column("timestamp", pa.nulls(len(table), pa.int64()))
            rows = _convert_rows(Rows(table, rows.numbers, rows.unit), kinds, str(file), bad_records)
            append(rows.table)
            count += len(rows.numbers)
    for name, key in (("users", "user_id"), ("movies", "movie_id")):
        with parquet.open_parquet(folder / f"{name}.parquet") as opened:
            headers.check(opened.schema_arrow.names, [key], str(folder / f"{name}.parquet"))
            table = opened.read().rename_columns({key: key.removesuffix("_id")})
        with writer.table(name, table.schema) as append:
            append(table)
    writer.manifest["parts"] = {"all": count}
    writer.manifest["notes"] = ["ordered by fold of a random five-fold split; timestamps are missing"]


def _write_ratings(release: str, member: archives.Member, writer: DatasetWriter, bad_records: BadRecords) -> int:
    import pyarrow as pa

    where, count = f"{member.name} in {member.archive}", 0
    dialect = Dialect({"100k": "\t", "1m": ":", "25m": ","}[release])
    fields = list(_KINDS)
    if release == "1m":  # its delimiter is "::": empty columns between
        fields = [part for name in _KINDS for part in (name, f"after {name}")][:-1]
    blocks = lines.read_blocks(member.stream, dialect, where)
    if release == "25m":
        head, blocks = lines.split_first_row(blocks, dialect)
        if head.data.strip() != b"userId,movieId,rating,timestamp":
            raise ValueError(f"expected the header userId,movieId,rating,timestamp, got {head.data[:80]!r} in {where}")
    with writer.table("rows", pa.schema(list(_KINDS.items()))) as append:
        for rows in text.read_rows(blocks, fields, dialect, where, bad_records):
            rows = _convert_rows(rows, _KINDS, where, bad_records)
            append(rows.table)
            count += len(rows.numbers)
            writer.progress("read ratings", count, 0)
    return count


def _convert_rows(rows: Rows, kinds: dict[str, str], where: str, bad_records: BadRecords) -> Rows:
    """Return the rows as numbers; rows without user, film or a rating in range are bad records."""
    rows = values.convert(rows, kinds, where, bad_records)
    for name in ("user", "movie"):
        rows = values.require_numbers(rows, name, where, bad_records)
    return values.require_numbers(rows, "rating", where, bad_records, low=_LOWEST, high=_HIGHEST)


def _read_films(release: str, member: archives.Member) -> ColumnLists:
    if release == "25m":
        rows = _read_quoted(member)
        return {"movie": _integers(rows, 0), "title": [r[1] for _, r in rows], "genres": [r[2] for _, r in rows]}
    rows = _split_lines(member, "|" if release == "100k" else "::", 5 + len(_GENRES) if release == "100k" else 3)
    genres = [row[2] for _, row in rows]
    if release == "100k":
        genres = ["|".join(g for g, flag in zip(_GENRES, row[5:], strict=True) if flag == "1") for _, row in rows]
    return {"movie": _integers(rows, 0), "title": [row[1] for _, row in rows], "genres": genres}


def _read_users(release: str, member: archives.Member) -> ColumnLists:
    names = _USER_FIELDS[release]
    rows = _split_lines(member, "|" if release == "100k" else "::", len(names))
    table: ColumnLists = {name: [row[place] for _, row in rows] for place, name in enumerate(names)}
    return {**table, **{name: _integers(rows, names.index(name)) for name in ("user", "age")}}


def _split_lines(member: archives.Member, delimiter: str, fields: int) -> list[Line]:
    """Return the lines of a small file without quotes, in Latin-1."""
    content = member.read(_LARGEST).decode("latin-1")
    rows = [
        (f"line {number} of {member.name} in {member.archive}", line.removesuffix("\r").split(delimiter))
        for number, line in enumerate(content.split("\n"), start=1)
        if line.strip()
    ]
    for where, row in rows:
        if len(row) != fields:
            raise ValueError(f"{where}: expected {fields} fields, got {len(row)}")
    return rows


def _read_quoted(member: archives.Member) -> list[Line]:
    """Return the lines of a small file with quotes and a header of three fields, in UTF-8."""
    where, dialect = f"{member.name} in {member.archive}", Dialect(",", '"', text=True)
    blocks = lines.read_blocks(io.BytesIO(member.read(_LARGEST)), dialect, where)
    head, blocks = lines.split_first_row(blocks, dialect)
    if head.data.strip() != b"movieId,title,genres":
        raise ValueError(f"expected the header movieId,title,genres, got {head.data[:80]!r} in {where}")
    rows: list[Line] = []
    for block in text.read_rows(blocks, ["movie", "title", "genres"], dialect, where, BadRecords()):
        cells = zip(*(column.to_pylist() for column in block.table.columns), strict=True)
        rows += [
            (f"line {n} of {where}", ["" if c is None else c for c in row])
            for n, row in zip(block.numbers, cells, strict=True)
        ]
    return rows


def _integers(rows: list[Line], place: int) -> list[int]:
    """Return the field at a position of each line as an integer."""
    for where, row in rows:
        if not (row[place].isascii() and row[place].isdigit() and len(row[place]) < _DIGITS):
            raise ValueError(f"{where}: expected a whole number, got {row[place][:60]!r}")
    return [int(row[place]) for _, row in rows]


def _write_table(writer: DatasetWriter, name: str, columns: ColumnLists) -> None:
    import pyarrow as pa

    table = pa.table(columns)
    with writer.table(name, table.schema) as append:
        append(table)


def _entry(release: str, count: str, sha256: str) -> CatalogEntry:
    file = f"ml-{release}.zip"
    return CatalogEntry(
        name=f"movielens-{release}",
        title=f"{count} ratings of films",
        kind="table",
        license="non-commercial, not to be passed on",
        homepage=f"https://grouplens.org/datasets/movielens/{release}/",
        remotes=(Remote(file, f"sha256:{sha256}", f"https://files.grouplens.org/datasets/movielens/{file}"),),
        convert=partial(convert, release),
        defaults={"validation": 0.1, "test": 0.1},
    )


ENTRIES = (
    _entry("100k", "100,000", "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229"),
    _entry("1m", "1 million", "a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20"),
    _entry("25m", "25 million", "8b21cfb7eb1706b4ec0aac894368d90acf26ebdfb6aced3ebd4ad5bd1eb9c6aa"),
)
