"""`suffice data`: what data sets there are, getting them, and a look at them."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TimeRemainingColumn
from rich.table import Table

from suffice.cli.bars import Bars, description
from suffice.cli.terminal import cell, say

if TYPE_CHECKING:
    from suffice.data.store.store import Stored

app = typer.Typer(
    help="List, fetch, import and show data sets. They live in $SUFFICE_DATA, or in ~/.cache/suffice.",
    no_args_is_help=True,
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Name = Annotated[str, typer.Argument(help="As `suffice data list` shows it.")]


@app.command("list")
def list_(
    check: Annotated[bool, typer.Option("--check", help="Read and hash every file of those that are here.")] = False,
    as_json: AsJson = False,
) -> None:
    """What there is: state, size and licence of each data set.

    Example: suffice data list --check
    """
    from suffice.data.sources import catalog
    from suffice.data.store import store

    names = [*catalog.ENTRIES, *(name for name in store.names() if name not in catalog.ENTRIES)]
    rows = [_state(name, check) for name in names]
    if as_json:
        print(json.dumps(rows))
        return
    table = Table("name", "what", "state", "MB", "licence", box=box.SIMPLE_HEAD, pad_edge=False)
    table.columns[0].no_wrap = table.columns[2].no_wrap = True
    table.columns[3].justify = "right"
    for row in rows:
        size = f"{row['bytes'] / 1e6:,.0f}" if row["bytes"] else ""
        table.add_row(*map(cell, (row["name"], row["title"], row["state"], size, row["licence"])))
    console = Console()
    console.print(table)
    for row in rows:
        if row["fault"]:
            say(console, f"{row['name']}: {row['fault']}")
    say(console, f"They live in {store.root()}.", wrap=False)


@app.command("fetch")
def fetch(name: Name, as_json: AsJson = False) -> None:
    """Download a data set from its official place, check it, and import it.

    A download that broke off is resumed. Sets whose terms must be accepted first are to be got by hand.

    Example: suffice data fetch cifar100
    """
    from suffice.data import fetch_set

    with _bars() as bars:
        stored = fetch_set(name, progress=Bars(bars))
    _done(stored, as_json)


@app.command("import")
def import_(
    name: Annotated[str, typer.Argument(help="Of a known set, or a new one for data of your own.")],
    source: Annotated[Path, typer.Argument(help="An official file, or a folder with it or what it unpacks to.")],
    schema: Annotated[Path | None, typer.Option(help="What the columns of your own table are for (TOML).")] = None,
    bad: Annotated[Literal["refuse", "skip"], typer.Option(help="What to do at a malformed line or image.")] = "refuse",
    any_checksum: Annotated[bool, typer.Option("--any-checksum", help="Take a file other than the official.")] = False,
    as_json: AsJson = False,
) -> None:
    """Read files into the store: official ones, compact ones, or your own.

    Your own are a folder of images (<class>/…, or train/<class>/… and test/<class>/…), or a Parquet or CSV file with
    a schema.

    Example: suffice data import cifar100 cifar-100-python.tar.gz

    Example: suffice data import visits visits.csv --schema visits.toml
    """
    from suffice.data import import_set

    with _bars() as bars:
        stored = import_set(name, source, schema_file=schema, bad=bad, any_checksum=any_checksum, progress=Bars(bars))
    _done(stored, as_json)


@app.command("show")
def show(
    name: Name,
    rows: Annotated[int, typer.Option(min=1, help="Rows of a table, or of images in a sheet.")] = 5,
    out: Annotated[Path | None, typer.Option(help="The contact sheet; NAME.png here if not given.")] = None,
    as_json: AsJson = False,
) -> None:
    """What is known of a data set, and a few rows of it or a contact sheet of its images.

    Example: suffice data show cifar100 --rows 10 --out sheet.png
    """
    from suffice.data import showing
    from suffice.data.sources import catalog
    from suffice.data.store import store

    with catalog.advised():
        stored = store.find(name)
    facts = showing.facts(stored)
    if stored.manifest["kind"] == "table":
        columns = showing.rows(stored, rows)
    else:
        columns, sheet = {}, out or Path(f"{name}.png")
        facts["sheet"] = str(showing.write_sheet(stored, rows, sheet))
    if as_json:
        print(json.dumps({**facts, "rows": columns}, default=str))
        return
    console = Console()
    for key, value in facts.items():
        say(console, f"{key}: {value}")
    if columns:
        table = Table(
            "column", *(f"row {row}" for row in range(len(next(iter(columns.values()))))), box=box.SIMPLE_HEAD
        )
        for column, values in columns.items():
            table.add_row(*map(cell, (column, *values)))
        console.print(table)


def _state(name: str, check: bool) -> dict[str, Any]:
    """Facts of one data set, from the store or, where it is not there, from the catalogue."""
    from suffice.data.sources import catalog
    from suffice.data.store import store

    entry = catalog.ENTRIES.get(name)
    row = {"name": name, "title": entry.title, "licence": entry.licence} if entry else {"name": name}
    try:
        stored = store.find(name)
    except FileNotFoundError:
        return {"title": "", "licence": "", **row, "state": "not here", "bytes": 0, "fault": ""}
    except ValueError as error:
        return {"title": "", "licence": "", **row, "state": "damaged", "bytes": 0, "fault": str(error)}
    row = {key: stored.manifest[key] for key in ("name", "title", "licence")}
    damaged = store.damaged(stored) if check else []
    fault = f"{', '.join(damaged)} changed since the import; import it again" if damaged else ""
    return {**row, "state": "damaged" if damaged else "here", "bytes": stored.size, "fault": fault}


def _done(stored: "Stored", as_json: bool) -> None:
    manifest = stored.manifest
    if as_json:
        print(json.dumps({"folder": str(stored.folder), "bytes": stored.size, **manifest}))
        return
    console = Console()
    parts = ", ".join(f"{count:,} in {part}" for part, count in manifest["parts"].items())
    say(console, f"{manifest['name']}: {parts}; {stored.size / 1e6:,.0f} MB in {stored.folder}")
    for note in manifest.get("notes", []):
        say(console, f"Note: {note}.")
    for given in manifest["source"] if isinstance(manifest["source"], list) else []:
        if not given["official"]:
            say(console, f"{given['file']} is {given['checksum']}: recorded, not checked.")
    if manifest["skipped"]["count"]:
        say(console, f"Passed over {manifest['skipped']['count']} faults, the first of them:")
        for fault in manifest["skipped"]["first"]:
            say(console, f"  {fault}")


def _bars() -> Progress:
    columns = (description(), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True))
