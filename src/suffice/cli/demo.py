"""`suffice demo`: the whole path, on handwritten digits in a minute or two."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich import box
from rich.console import Console
from rich.table import Table as RichTable

from suffice.cli.bars import Bars, bars
from suffice.cli.terminal import cell, say
from suffice.report.tables import Table, all_tables

_MARK = b'"suffice": "'
"""Among the first bytes of results: the version that they were made with."""


def command(
    data: Annotated[
        Literal["digits", "cifar100"], typer.Option(help="Digits, no download; or CIFAR-100 from the store.")
    ] = "digits",
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for the report and the artifacts.")] = Path("demo-out"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON instead of tables.")] = False,
) -> None:
    """Calibrate, spend half a budget and learn the dropout variation of a small network.

    It is trained on scikit-learn's handwritten digits here and now; or it is the MSDNet for CIFAR-100 that comes with
    the library, where `suffice data` has the images.

    Writes report.html, results.json and the saved artifacts.

    Example: suffice demo --seed 1 --out /tmp/demo
    """
    import torch

    from suffice.demo import program, subjects
    from suffice.report.page import MARK, check_packages, write
    from suffice.storage import files

    check_packages()
    torch.set_num_threads(1)  # images this small gain nothing from more, and two busy programs would crawl

    files.check(out / "results.json", _MARK)
    files.check(out / "report.html", MARK)
    console, errors = Console(), Console(stderr=True)
    with bars(errors) as shown:
        progress = Bars(shown)
        results = program.run(subjects.SUBJECTS[data](seed, progress), seed, out, progress)
    tables = all_tables(results)
    files.write(out / "results.json", json.dumps(results, indent=1).encode(), _MARK)
    write(results, tables, out / "report.html")
    if as_json:
        print(json.dumps(results))
        return
    say(console, results["about"])
    for table in tables:
        _print(console, table)
    for note in results["notes"]:
        say(console, f"{note}.", style="dim")
    place = f"The report is {out / 'report.html'}; artifacts and results.json lie beside it."
    for line in ("", results["closing"], "", place):
        say(console, line)


def _print(console: Console, table: Table) -> None:
    title = cell(table.title)
    shown = RichTable(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold", pad_edge=False)
    for i, name in enumerate(table.header):
        shown.add_column(cell(name), justify="right" if i else "left", no_wrap=True)
    for row in table.rows:
        shown.add_row(*map(cell, row))
    console.print(shown)
    if table.note:
        say(console, table.note, style="dim")
