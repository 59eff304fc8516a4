"""The command `suffice demo`: every step of the library on a small network, in a minute or two."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich import box
from rich.console import Console
from rich.table import Table as RichTable

from suffice.cli.bars import Bars, progress_display
from suffice.cli.terminal import cell, print_line
from suffice.report.tables import Table, all_tables

_MARK = b'"suffice": "'
"""Text near the beginning of every results.json, which identifies the file as the demo's."""


def command(
    data: Annotated[
        Literal["digits", "cifar100"],
        typer.Option(help="Handwritten digits (included), or CIFAR-100 from the store."),
    ] = "digits",
    seed: Annotated[int, typer.Option(help="Seed of all random numbers.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for the report and the artifacts.")] = Path("demo-out"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON instead of tables.")] = False,
) -> None:
    """Calibrate a small network, run it at half the cost, and estimate its dropout variation.

    With `--data digits` the network is trained first, on scikit-learn's handwritten digits. With `--data cifar100` it
    is the pretrained MSDNet of the library, which takes seven to nine minutes on one core; fetch the images first with
    `suffice data fetch cifar100`.

    Writes report.html, results.json and the saved artifacts to the output folder.

    Example: suffice demo --seed 1 --out /tmp/demo
    """
    import torch

    from suffice.demo import program, subjects
    from suffice.report.page import MARK, check_packages, write
    from suffice.storage import files

    check_packages()
    torch.set_num_threads(1)  # more threads do not speed up images this small, and slow down other programs

    files.check_replaceable(out / "results.json", _MARK)
    files.check_replaceable(out / "report.html", MARK)
    console, errors = Console(), Console(stderr=True)
    with progress_display(errors) as display:
        progress = Bars(display)
        results = program.run(subjects.SUBJECTS[data](seed, progress), seed, out, progress)
    tables = all_tables(results)
    files.atomic_write(out / "results.json", json.dumps(results, indent=1).encode(), _MARK)
    write(results, tables, out / "report.html")
    if as_json:
        print(json.dumps(results))
        return
    print_line(console, results["about"])
    for table in tables:
        _print_table(console, table)
    for note in results["notes"]:
        print_line(console, f"{note}.", style="dim")
    paths = f"The report is {out / 'report.html'}; results.json and the artifacts are in the same folder."
    for line in ("", results["closing"], "", paths):
        print_line(console, line)


def _print_table(console: Console, table: Table) -> None:
    title = cell(table.title)
    printed = RichTable(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold", pad_edge=False)
    for i, name in enumerate(table.header):
        printed.add_column(cell(name), justify="right" if i else "left", no_wrap=True)
    for row in table.rows:
        printed.add_row(*map(cell, row))
    console.print(printed)
    if table.note:
        print_line(console, table.note, style="dim")
