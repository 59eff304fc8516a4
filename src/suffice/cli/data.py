"""The command `suffice data`: list, fetch, import and show data sets."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TimeRemainingColumn
from rich.table import Table

from suffice.cli.bars import Bars, description_column
from suffice.cli.terminal import cell, print_line

if TYPE_CHECKING:
    from suffice.data.store.dataset import StoredDataset

app = typer.Typer(
    help="List, fetch, import and show data sets. They are stored in $SUFFICE_DATA (default: ~/.cache/suffice).\n\n"
    "Example: suffice data list",
    no_args_is_help=True,
)

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Name = Annotated[str, typer.Argument(help="Name of a data set, as `suffice data list` shows it.")]


@app.command("list")
def list_(
    check: Annotated[bool, typer.Option("--check", help="Read and hash every file of the stored data sets.")] = False,
    as_json: AsJson = False,
) -> None:
    """List every known or stored data set with its state, size and license.

    Example: suffice data list --check
    """
    from suffice.data.sources import catalog, digits
    from suffice.data.store import lookup

    names = [*catalog.ENTRIES, *(name for name in lookup.names() if name not in (*catalog.ENTRIES, digits.NAME))]
    rows = [_embedded_status(), *(_status(name, check) for name in names)]
    if as_json:
        print(json.dumps(rows))
        return
    table = Table("name", "title", "state", "MB", "license", box=box.SIMPLE_HEAD, pad_edge=False)
    table.columns[0].no_wrap = table.columns[2].no_wrap = True
    table.columns[3].justify = "right"
    for row in rows:
        size = f"{row['bytes'] / 1e6:,.0f}" if row["bytes"] else ""
        table.add_row(*map(cell, (row["name"], row["title"], row["state"], size, row["licence"])))
    console = Console()
    console.print(table)
    for row in rows:
        if row["fault"]:
            print_line(console, f"{row['name']}: {row['fault']}")
    print_line(console, f"Data sets are stored in {lookup.root()}.", wrap=False)


@app.command("fetch")
def fetch(name: Name, as_json: AsJson = False) -> None:
    """Download a data set from its official source, verify its checksum, and import it.

    An interrupted download is resumed. A data set whose terms must be accepted first has to be downloaded by hand and
    imported with `suffice data import`.

    Example: suffice data fetch cifar100
    """
    from suffice.data import fetch_set

    with _display() as bars:
        stored = fetch_set(name, progress=Bars(bars))
    _print_stored(stored, as_json)


@app.command("import")
def import_(
    name: Annotated[str, typer.Argument(help="Name of a known data set, or a new name for your own data.")],
    source: Annotated[
        Path,
        typer.Argument(help="Official file or the folder that contains it; or your own table or folder of images."),
    ],
    schema: Annotated[Path | None, typer.Option(help="TOML file with the roles of the columns of a table.")] = None,
    bad: Annotated[Literal["refuse", "skip"], typer.Option(help="How to treat a malformed line or image.")] = "refuse",
    any_checksum: Annotated[bool, typer.Option("--any-checksum", help="Accept files with any checksum.")] = False,
    as_json: AsJson = False,
) -> None:
    """Import official files, their compact versions, or your own data into the store.

    Your own data are a folder of images (<class>/…, or train/<class>/… and test/<class>/…), or a Parquet or CSV file
    with a schema.

    Example: suffice data import cifar100 cifar-100-python.tar.gz

    Example: suffice data import visits visits.csv --schema visits.toml
    """
    from suffice.data import import_set

    with _display() as bars:
        stored = import_set(name, source, schema_file=schema, bad=bad, any_checksum=any_checksum, progress=Bars(bars))
    _print_stored(stored, as_json)


@app.command("show")
def show(
    name: Name,
    rows: Annotated[int, typer.Option(min=1, help="Number of table rows, or of image rows in the contact sheet.")] = 5,
    out: Annotated[Path | None, typer.Option(help="Path of the contact sheet (default: NAME.png).")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the facts of a data set, and a few rows of its table or a contact sheet of its images.

    Example: suffice data show cifar100 --rows 10 --out sheet.png
    """
    from suffice.data import preview
    from suffice.data.sources import catalog, digits
    from suffice.data.store import lookup

    stored, columns, sheet = None, {}, out or Path(f"{name}.png")
    if name != digits.NAME:
        with catalog.explain_missing():
            stored = lookup.find(name)
    facts = preview.embedded_facts() if stored is None else preview.facts(stored)
    if stored is not None and stored.manifest["kind"] in ("table", "text"):
        columns = preview.first_rows(stored, rows)
    else:
        facts["sheet"] = str(preview.write_contact_sheet(stored, rows, sheet))
    if as_json:
        print(json.dumps({**facts, "rows": columns}, default=str))
        return
    console = Console()
    for key, value in facts.items():
        print_line(console, f"{key}: {value}")
    if columns:
        table = Table(
            "column", *(f"row {row}" for row in range(len(next(iter(columns.values()))))), box=box.SIMPLE_HEAD
        )
        for column, values in columns.items():
            table.add_row(*map(cell, (column, *values)))
        console.print(table)


def _embedded_status() -> dict[str, Any]:
    """Return the listed facts of the set that is in every installation."""
    from suffice.data.sources import digits

    return {key: digits.FACTS[key] for key in ("name", "title", "licence")} | {"state": "here", "bytes": 0, "fault": ""}


def _status(name: str, check: bool) -> dict[str, Any]:
    """Return the listed facts of one data set, from the store or, if it is not stored, from the catalog."""
    from suffice.data.sources import catalog
    from suffice.data.store import lookup

    entry = catalog.ENTRIES.get(name)
    row = {"name": name, "title": entry.title, "licence": entry.license} if entry else {"name": name}
    try:
        stored = lookup.find(name)
    except FileNotFoundError:
        return {"title": "", "licence": "", **row, "state": "not here", "bytes": 0, "fault": ""}
    except ValueError as error:
        return {"title": "", "licence": "", **row, "state": "damaged", "bytes": 0, "fault": str(error)}
    row = {key: stored.manifest[key] for key in ("name", "title", "licence")}
    damaged = lookup.damaged_files(stored) if check else []
    fault = f"{', '.join(damaged)} changed since the import; import it again" if damaged else ""
    return {**row, "state": "damaged" if damaged else "here", "bytes": stored.size, "fault": fault}


def _print_stored(stored: "StoredDataset", as_json: bool) -> None:
    manifest = stored.manifest
    if as_json:
        print(json.dumps({"folder": str(stored.folder), "bytes": stored.size, **manifest}))
        return
    console = Console()
    parts = ", ".join(f"{count:,} in {part}" for part, count in manifest["parts"].items())
    print_line(console, f"{manifest['name']}: {parts}; {stored.size / 1e6:,.0f} MB in {stored.folder}")
    for note in manifest.get("notes", []):
        print_line(console, f"Note: {note}.")
    for file in manifest["source"] if isinstance(manifest["source"], list) else []:
        if not file["official"]:
            print_line(
                console, f"{file['file']} has the checksum {file['checksum']}, which was recorded, not verified."
            )
    if manifest["skipped"]["count"]:
        print_line(console, f"Skipped {manifest['skipped']['count']} malformed lines or images; the first of them:")
        for fault in manifest["skipped"]["first"]:
            print_line(console, f"  {fault}")


def _display() -> Progress:
    columns = (description_column(), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True))
