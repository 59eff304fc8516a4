"""From files to the store: known sets from their official files or the compact ones, and the users' own data."""

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
    """Download a known data set and import it; a download that broke off is resumed.

    Raises:
        ValueError: for an unknown name, a set that must be got by hand, or a wrong checksum.
        ConnectionError: without a network; it names the file and what to do with it.
        OSError: if the disk is full.
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
    """Read files into the store, replacing a set of that name once the new one is whole.

    Args:
        name: of a known set (`suffice data list`), or a new one for data of one's own.
        source: an official file, a folder with it or with what it unpacks to, or the compact files; of one's
            own, a folder of images `<class>/…` or, with a schema, a Parquet or CSV file.
        schema_file: for a table of one's own (`suffice.data.formats.schema`).
        bad: `refuse` a set with a malformed line or image, or `skip` those, counted and named in the manifest.
        any_checksum: take an official file that is not the official one to the byte.
        progress: called as the work goes on.

    Raises:
        FileNotFoundError: if the source is not there.
        ValueError: for a wrong checksum, damage, or whatever else is not as expected; nothing is then changed.
        OSError: if the disk is full.
    """
    source = Path(source)
    if bad not in ("refuse", "skip"):
        raise ValueError(f"expected bad as refuse or skip, got {bad!r}")
    if not source.exists():
        raise FileNotFoundError(f"expected {_wanted(name)} at {describe_path(source.absolute())}, found nothing there")
    if not source.is_dir() and not source.is_file():  # to open it might wait for ever
        raise ValueError(f"expected {_wanted(name)}, a file or a folder, got {describe_path(source)}")
    lookup.check_name(name)
    bad_records = BadRecords(skip=bad == "skip")
    entry = catalog.ENTRIES.get(name)
    if entry is not None and schema_file is None:
        convert, facts = _known(entry, source, any_checksum, progress)
    else:
        convert, facts = _own(name, source, schema_file)
    with create_dataset(name, progress) as writer:
        writer.manifest |= facts
        with archives.damage_as_value_error(source):
            convert(source if entry is None else _place(entry, source), writer, bad_records)
        empty = [part for part, count in writer.manifest["parts"].items() if not count]
        if empty:
            left_out = (
                f", {bad_records.count} of them malformed, such as {bad_records.first[0]}" if bad_records.count else ""
            )
            raise ValueError(f"expected rows in {source}, found none to keep{left_out}")
        writer.manifest["skipped"] = {"count": bad_records.count, "first": bad_records.first}
    return lookup.find(name)


def _known(
    entry: CatalogEntry, source: Path, any_checksum: bool, progress: ProgressCallback
) -> tuple[Convert, dict[str, Any]]:
    given = [
        {"file": file.name, "bytes": file.stat().st_size, "checksum": fetch.check(file, remote, progress)}
        | {"official": remote.checksum is not None}
        for file, remote in _official(entry, source, any_checksum)
    ]
    facts = {"kind": entry.kind, "title": entry.title, "licence": entry.license, "home": entry.homepage}
    return entry.convert, {**facts, "source": given or str(source)}


def _official(entry: CatalogEntry, source: Path, any_checksum: bool) -> list[tuple[Path, Remote]]:
    """The official files at a source, and what is known of each; not what they unpack to."""
    if source.is_dir():
        found = [(source / remote.file, remote) for remote in entry.remotes if (source / remote.file).is_file()]
    else:
        named = [remote for remote in entry.remotes if remote.file == source.name]
        sole = list(entry.remotes) if len(entry.remotes) == 1 and archives.is_archive(source) else []
        found = [(source, remote) for remote in named or sole or [Remote(source.name, None, None)]]
    return [(file, Remote(r.file, None, None) if any_checksum else r) for file, r in found]


def _place(entry: CatalogEntry, source: Path) -> Path:
    """Where to read: the official file itself where the folder holds it and there is but one."""
    found = entry.official_files(source)
    return found[0] if len(entry.remotes) == 1 and found else source


def _own(name: str, source: Path, schema_file: Path | str | None) -> tuple[Convert, dict[str, Any]]:
    facts = {"title": "of one's own", "licence": "of one's own", "source": str(source)}
    if schema_file is not None:
        if name in catalog.ENTRIES:
            raise ValueError(f"expected a new name for a table of one's own, got {name!r}; choose another")
        return partial(user_table.convert, schema.read(Path(schema_file))), {**facts, "kind": "table"}
    if not source.is_dir():
        raise ValueError(
            f"expected a folder of images for the new name {name!r}, got the file {source}; for a table give a schema "
            f"(--schema); known names are {', '.join(catalog.ENTRIES)}"
        )
    return _convert_folder, {**facts, "kind": "encoded"}


def _convert_folder(source: Path, writer: DatasetWriter, bad_records: BadRecords) -> None:
    """Images under `<class>/`, or under `train/<class>/` and `test/<class>/` (or `val/`)."""
    parts = folders.find_parts(source)
    classes = folders.class_names(parts.get("train", source))
    unread = folders.unread_entries(source, parts)
    for part, folder in parts.items():
        found = folders.list_images(folder, classes, bad_records)
        packing.pack(
            writer, part, found.named(folder), str(folder), bad_records, classes=classes, total=len(found.paths)
        )
        unread += found.others
    writer.manifest["classes"] = classes
    if unread:
        some = ", ".join(path.relative_to(source).as_posix() for path in unread[:5])
        writer.manifest["notes"] = [f"not read: {len(unread)} that are no images by their names, such as {some}"]


def _wanted(name: str) -> str:
    entry = catalog.ENTRIES.get(name)
    return "the source" if entry is None else " or ".join(remote.file for remote in entry.remotes)
