"""MovieLens: ratings of films by users (Harper and Konstan 2015), 100,000, 1 million and 25 million of them.

Three releases in three formats become one: `rows` with user, movie, rating and timestamp, and `movies` and (where
published) `users` beside them. The compact copy of 1M has a five-fold split and no timestamps.
"""

import csv
import io
from functools import partial
from pathlib import Path

from suffice.data import archives, text
from suffice.data.entry import Entry, Faults, Remote, holding
from suffice.data.store import Writer

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

Table = dict[str, list[object]]


def convert(release: str, source: Path, writer: Writer, faults: Faults) -> None:
    """The official zip, its folder, or (for 1M) the compact Parquet files."""
    writer.manifest["columns"] = _COLUMNS
    compact = holding(source, "movielens", "ratings.parquet", "users.parquet", "movies.parquet")
    if compact is not None:
        if release != "1m":
            raise ValueError(f"expected movielens-1m from the compact files in {compact}, got movielens-{release}")
        _convert_compact(compact, writer)
        return
    wanted = {_RATINGS[release], _FILMS[release], _USERS.get(release)}
    found = set()
    for member in archives.members(source):
        name = Path(member.name).name
        if name not in wanted or name in found:
            continue
        found.add(name)
        if name == _RATINGS[release]:
            rows = _write_ratings(release, member, writer, faults)
        elif name == _FILMS[release]:
            _write_table(writer, "movies", _films(release, member.read(_LARGEST)))
        else:
            _write_table(writer, "users", _users(release, member.read(_LARGEST)))
    missing = wanted - found - {None}
    if missing:
        raise ValueError(f"expected {', '.join(sorted(map(str, missing)))} in {source}, found none")
    writer.manifest["parts"] = {"all": rows}


def _convert_compact(folder: Path, writer: Writer) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {**_KINDS, "fold": "uint8"}
    ratings = pq.read_table(folder / "ratings.parquet").rename_columns({"user_id": "user", "movie_id": "movie"})
    ratings = ratings.append_column("timestamp", pa.nulls(len(ratings), pa.int64()))
    schema = pa.schema(list(kinds.items()))
    with writer.table("rows", schema) as append:
        append(ratings.select(list(kinds)))
    for name, key in (("users", "user_id"), ("movies", "movie_id")):
        table = pq.read_table(folder / f"{name}.parquet").rename_columns({key: key.removesuffix("_id")})
        with writer.table(name, table.schema) as append:
            append(table)
    writer.manifest["parts"] = {"all": len(ratings)}
    writer.manifest["notes"] = ["ordered by fold of a random five-fold split; timestamps are missing"]


def _write_ratings(release: str, member: archives.Member, writer: Writer, faults: Faults) -> int:
    import pyarrow as pa

    where, count = f"{member.name} in {member.archive}", 0
    stream, delimiter = member.stream, {"100k": b"\t", "1m": b":", "25m": b","}[release]
    names = list(_KINDS)
    if release == "1m":  # its delimiter is "::": empty columns between
        names = [part for name in _KINDS for part in (name, f"after {name}")][:-1]
    if release == "25m":
        header = stream.readline()
        if header.strip() != b"userId,movieId,rating,timestamp":
            raise ValueError(f"expected the header userId,movieId,rating,timestamp, got {header[:80]!r} in {where}")
    schema = pa.schema(list(_KINDS.items()))
    with writer.table("rows", schema) as append:
        for rows in text.rows(stream, names, delimiter, where, faults):
            numbers = text.converted(rows, _KINDS, where, faults)
            append(numbers.table)
            count += len(numbers.lines)
            writer.progress("read ratings", count, 0)
    return count


def _films(release: str, data: bytes) -> Table:
    if release == "25m":
        rows = list(csv.reader(io.StringIO(data.decode("utf-8"))))[1:]
    else:
        delimiter = "|" if release == "100k" else "::"
        rows = [line.split(delimiter) for line in data.decode("latin-1").splitlines() if line]
    if release == "100k":
        genres = ["|".join(g for g, flag in zip(_GENRES, row[5:], strict=True) if flag == "1") for row in rows]
        rows = [[*row[:2], genre] for row, genre in zip(rows, genres, strict=True)]
    return {
        "movie": [int(row[0]) for row in rows],
        "title": [row[1] for row in rows],
        "genres": [row[2] for row in rows],
    }


def _users(release: str, data: bytes) -> Table:
    delimiter = "|" if release == "100k" else "::"
    rows = [line.split(delimiter) for line in data.decode("latin-1").splitlines() if line]
    names = _USER_FIELDS[release]
    table: Table = {name: [row[place] for row in rows] for place, name in enumerate(names)}
    return {**table, "user": [int(row[0]) for row in rows], "age": [int(row[names.index("age")]) for row in rows]}


def _write_table(writer: Writer, name: str, columns: Table) -> None:
    import pyarrow as pa

    table = pa.table(columns)
    with writer.table(name, table.schema) as append:
        append(table)


def _entry(release: str, count: str, sha256: str) -> Entry:
    file = f"ml-{release}.zip"
    return Entry(
        name=f"movielens-{release}",
        title=f"{count} ratings of films",
        kind="table",
        licence="non-commercial, not to be passed on",
        home=f"https://grouplens.org/datasets/movielens/{release}/",
        remotes=(Remote(file, f"sha256:{sha256}", f"https://files.grouplens.org/datasets/movielens/{file}"),),
        convert=partial(convert, release),
        defaults={"validation": 0.1, "test": 0.1},
    )


ENTRIES = (
    _entry("100k", "100,000", "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229"),
    _entry("1m", "1 million", "a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20"),
    _entry("25m", "25 million", "8b21cfb7eb1706b4ec0aac894368d90acf26ebdfb6aced3ebd4ad5bd1eb9c6aa"),
)
