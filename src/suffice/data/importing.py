"""Import files into the store: known data sets from official or compact files, and the user's own data."""

from functools import partial
from pathlib import Path
from typing import Any

from suffice.data.formats.images import folders, packing
from suffice.data.formats.tables import schema
from suffice.data.sources import catalog, user_table
from suffice.data.store import archives, fetch, lookup
from suffice.data.store.bad_records import BadRecords
from suffice.data.store.dataset import StoredDataset
from suffice.data.store.entry import CatalogEntry, Convert, Remote
from suffice.data.store.writer import DatasetWriter, create_dataset
from suffice.storage.paths import describe_path
from suffice.utils.progress import ProgressCallback, quiet


def fetch_set(name: str, *, progress: ProgressCallback = quiet) -> StoredDataset:
    """Download a known data set and import it; an interrupted download is resumed.

    Args:
        name: Name of the data set, as listed by `suffice data list`.
        progress: Callback for the progress of the work.

    Raises:
        ValueError: For an unknown name, a data set that must be downloaded manually, or a wrong checksum.
        ConnectionError: If the network is not available; the message states the file and the remedy.
        OSError: If the disk is full.
    """
    entry = catalog.find(name)
    return import_set(name, fetch.fetch(entry, progress), progress=progress)


def import_set(
    name: str,
    source: Path | str,
    *,
    schema_file: Path | str | None = None,
    bad: str = "refuse",
    any_checksum: bool = False,
    progress: ProgressCallback = quiet,
) -> StoredDataset:
    r"""Import files into the store; a stored data set of that name is replaced once the new one is complete.

    Args:
        name: Name of a known data set (`suffice data list`), or a new name for the user's own data.
        source: For a known data set, an official file, a folder with the official files or their unpacked contents, or
            the compact files. For own data, a folder of images `<class>/…` or, with a schema, a Parquet or CSV file.
        schema_file: Schema of the user's own table (`suffice.data.formats.tables.schema`).
        bad: `refuse`: raise for a malformed line or image; `skip`: count it, and describe the first ones in the
            manifest.
        any_checksum: Accept a file whose checksum differs from the official one.
        progress: Callback for the progress of the work.

    Raises:
        FileNotFoundError: If the source does not exist.
        ValueError: For a wrong checksum, a damaged file or unexpected contents; the store is then unchanged.
        OSError: If the disk is full.

    Example:
        >>> import os, tempfile
        >>> from pathlib import Path
        >>> from unittest.mock import patch
        >>> import suffice
        >>> folder = tempfile.TemporaryDirectory()
        >>> table, schema = Path(folder.name, "visits.csv"), Path(folder.name, "visits.toml")
        >>> _ = table.write_text("age,city,clicked\n" + "31,Rome,yes\n25,Oslo,no\n" * 10)
        >>> _ = schema.write_text('labels = "clicked"\nnumeric = ["age"]\ncategorical = ["city"]\n')
        >>> with patch.dict(os.environ, SUFFICE_DATA=folder.name):  # the store of this example
        ...     _ = suffice.data.import_set("visits", table, schema_file=schema)
        ...     data = suffice.data.load("visits", validation=4, test=4)
        >>> len(data.train), data.classes
        (12, ('no', 'yes'))
        >>> folder.cleanup()
    """
    source = Path(source)
    _check_source(name, source, bad)
    lookup.check_name(name)
    bad_records = BadRecords(skip=bad == "skip")
    entry = catalog.ENTRIES.get(name)
    if entry is not None and schema_file is None:
        convert, facts = _known_set(entry, source, any_checksum, progress)
    else:
        convert, facts = _user_set(name, source, schema_file)
    with create_dataset(name, progress) as writer:
        writer.manifest |= facts
        with archives.damage_as_value_error(source):
            convert(source if entry is None else _path_to_read(entry, source), writer, bad_records)
        if not all(writer.manifest["parts"].values()):
            skipped = f", {bad_records.count} malformed, such as {bad_records.first[0]}" if bad_records.count else ""
            raise ValueError(f"expected rows in {source}, found none that could be imported{skipped}")
        writer.manifest["skipped"] = {"count": bad_records.count, "first": bad_records.first}
    return lookup.find(name)


def _check_source(name: str, source: Path, bad: str) -> None:
    if bad not in ("refuse", "skip"):
        raise ValueError(f"expected bad as refuse or skip, got {bad!r}")
    if not source.exists():
        files = _expected_files(name)
        raise FileNotFoundError(f"expected {files} at {describe_path(source.absolute())}, found nothing there")
    if not source.is_dir() and not source.is_file():  # opening a pipe could block
        raise ValueError(f"expected {_expected_files(name)}, a file or a folder, got {describe_path(source)}")


def _known_set(
    entry: CatalogEntry, source: Path, any_checksum: bool, progress: ProgressCallback
) -> tuple[Convert, dict[str, Any]]:
    """Return converter and manifest entries of a known data set, after checking its official files."""
    files = [
        {"file": file.name, "bytes": file.stat().st_size, "checksum": fetch.check(file, remote, progress)}
        | {"official": remote.checksum is not None}
        for file, remote in _official_files(entry, source, any_checksum)
    ]
    facts = {"kind": entry.kind, "title": entry.title, "licence": entry.license, "home": entry.homepage}
    return entry.convert, {**facts, "source": files or str(source)}


def _official_files(entry: CatalogEntry, source: Path, any_checksum: bool) -> list[tuple[Path, Remote]]:
    """Return the official files at a source with their descriptions; unpacked contents are not included."""
    if source.is_dir():
        files = [(source / remote.file, remote) for remote in entry.remotes if (source / remote.file).is_file()]
    else:
        same_name = [remote for remote in entry.remotes if remote.file == source.name]
        only = list(entry.remotes) if len(entry.remotes) == 1 and archives.is_archive(source) else []
        files = [(source, remote) for remote in same_name or only or [Remote(source.name, None, None)]]
    return [(file, Remote(r.file, None, None) if any_checksum else r) for file, r in files]


def _path_to_read(entry: CatalogEntry, source: Path) -> Path:
    """Return the official file if it is the only one and in the source folder, else the source."""
    files = entry.official_files(source)
    return files[0] if len(entry.remotes) == 1 and files else source


def _user_set(name: str, source: Path, schema_file: Path | str | None) -> tuple[Convert, dict[str, Any]]:
    """Return converter and manifest entries of the user's own table or folder of images."""
    facts = {"title": "of one's own", "licence": "of one's own", "source": str(source)}
    if schema_file is not None:
        if name in catalog.ENTRIES:
            raise ValueError(f"expected a new name for your own table, got {name!r}; choose another")
        return partial(user_table.convert, schema.read(Path(schema_file))), {**facts, "kind": "table"}
    if not source.is_dir():
        raise ValueError(
            f"expected a folder of images for the new name {name!r}, got the file {source}; for a table pass a schema "
            f"(--schema); known names are {', '.join(catalog.ENTRIES)}"
        )
    return _convert_folder, {**facts, "kind": "encoded"}


def _convert_folder(source: Path, writer: DatasetWriter, bad_records: BadRecords) -> None:
    """Import images from `<class>/`, or from `train/<class>/` and `test/<class>/` (or `val/`)."""
    parts = folders.find_parts(source)
    classes = folders.class_names(parts.get("train", source))
    unread = folders.unread_entries(source, parts)
    for part, folder in parts.items():
        listing = folders.list_images(folder, classes, bad_records)
        items, total = listing.items(folder), len(listing.paths)
        packing.pack(writer, part, items, str(folder), bad_records, classes=classes, total=total)
        unread += listing.others
    writer.manifest["classes"] = classes
    if unread:
        examples = ", ".join(path.relative_to(source).as_posix() for path in unread[:5])
        writer.manifest["notes"] = [f"not read: {len(unread)} that are no images by their names, such as {examples}"]


def _expected_files(name: str) -> str:
    entry = catalog.ENTRIES.get(name)
    return "the source" if entry is None else " or ".join(remote.file for remote in entry.remotes)
