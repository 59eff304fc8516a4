"""The command `suffice reproduce`: the tables of the two papers, one experiment at a time."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from suffice.cli.bars import Bars, progress_display
from suffice.cli.terminal import cell, print_line
from suffice.utils.text import printable

if TYPE_CHECKING:
    from suffice.reproduce.catalog import Experiment, Options


def command(
    name: Annotated[str | None, typer.Argument(help="Name of an experiment (default: list all).")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the results, one JSON file per experiment.")] = Path(
        "experiments"
    ),
    epochs: Annotated[int | None, typer.Option(min=1, help="Number of training epochs (default: the paper's).")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the training.")] = 0,
    validation: Annotated[
        int | None,
        typer.Option(min=1, help="Number of images held out for calibration."),
    ] = None,
    raw: Annotated[Path | None, typer.Option(help="Official files, imported if the store lacks the data.")] = None,
    float32: Annotated[bool, typer.Option("--float32", help="Train in float32 instead of bfloat16.")] = False,
    eager: Annotated[bool, typer.Option("--eager", help="Train without torch.compile.")] = False,
    also: Annotated[
        list[str] | None,
        typer.Option(help="Also train with this loss: smoothed or distilled; repeatable."),
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Number of CPU threads (default: 1).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Run one experiment of the two papers and print its tables as Markdown.

    Results are saved after each run. The same command resumes an interrupted experiment, and prints the tables of a
    finished one.

    Example: suffice reproduce movielens
    """
    import torch

    from suffice.data import import_set
    from suffice.data.store import lookup
    from suffice.reproduce import catalog

    options = catalog.Options(epochs, seed, validation, float32, eager, tuple(also or ()))
    if name is None:
        if options != catalog.Options() or raw is not None or threads is not None:
            raise typer.BadParameter("expected the name of an experiment before its options, got none")
        _print_experiments(out, as_json)
        return
    experiment = _find(name, options)
    if experiment.plan and experiment.state(out / f"{name}.json")[0] in ("not run", "partial"):
        typer.echo(printable(f"Missing weights will be trained: {experiment.plan}."), err=True)
    torch.set_num_threads(threads or 1)
    with progress_display(Console(stderr=True)) as display:
        if raw is not None and experiment.source not in lookup.names():
            import_set(experiment.source, raw, progress=Bars(display))
        results = experiment.run(out, Bars(display, keep=False))
    if as_json:
        print(json.dumps(results))
        return
    for table in experiment.tables:
        for line in (table, "", *catalog.render_table(out, name, table).split("\n")):
            print(printable(line))


def _find(name: str, options: "Options") -> "Experiment":
    from suffice.reproduce import catalog

    try:
        return catalog.find(name, options)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _print_experiments(out: Path, as_json: bool) -> None:
    from suffice.reproduce.catalog import EXPERIMENTS

    rows = []
    for name, experiment in EXPERIMENTS.items():
        state, because = experiment.state(out / f"{name}.json")
        rows.append({"name": name, "title": experiment.title, "state": state, "because": because})
    if as_json:
        print(json.dumps(rows))
        return
    table = Table("name", "experiment", "state", box=box.SIMPLE_HEAD, pad_edge=False)
    table.columns[0].no_wrap = True
    for row in rows:
        state = f"{row['state']}: {row['because']}" if row["because"] else row["state"]
        table.add_row(*map(cell, (row["name"], row["title"], state)))
    console = Console()
    console.print(table)
    print_line(console, f"Results are read from {out}.", wrap=False)
