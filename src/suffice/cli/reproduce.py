"""`suffice reproduce`: the two papers' tables, one command each."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from suffice.cli.bars import Bars, bars
from suffice.cli.terminal import cell, say
from suffice.utils.text import printable

if TYPE_CHECKING:
    from suffice.reproduce.catalog import Experiment, Options


def command(
    name: Annotated[str | None, typer.Argument(help="What to measure; without it, everything there is.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the results, one JSON file each.")] = Path("experiments"),
    epochs: Annotated[int | None, typer.Option(min=1, help="Of training, in place of the paper's.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the network that is trained.")] = 0,
    validation: Annotated[int | None, typer.Option(min=1, help="Images held out to calibrate by.")] = None,
    raw: Annotated[Path | None, typer.Option(help="Official files, imported if the store lacks the data.")] = None,
    float32: Annotated[bool, typer.Option("--float32", help="Train in float32, not in bfloat16.")] = False,
    eager: Annotated[bool, typer.Option("--eager", help="Train without torch.compile.")] = False,
    also: Annotated[list[str] | None, typer.Option(help="Train one more: smoothed or distilled; repeatable.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Of the processor; one if not given.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Run an experiment of the two papers and print its tables as Markdown.

    Results are kept run by run: asked again, it goes on where it was, or prints what is there.

    Example: suffice reproduce movielens
    """
    import torch

    from suffice.data import import_set
    from suffice.data.store import store
    from suffice.reproduce import catalog

    options = catalog.Options(epochs, seed, validation, float32, eager, tuple(also or ()))
    if name is None:
        if options != catalog.Options() or raw is not None or threads is not None:
            raise typer.BadParameter("expected the name of an experiment with these options, got none")
        _list(out, as_json)
        return
    experiment = _found(name, options)
    if experiment.plan and experiment.state(out / f"{name}.json")[0] in ("not run", "partial"):
        typer.echo(printable(f"Weights that are not there are trained: {experiment.plan}."), err=True)
    torch.set_num_threads(threads or 1)
    with bars(Console(stderr=True)) as shown:
        if raw is not None and experiment.source not in store.names():
            import_set(experiment.source, raw, progress=Bars(shown))
        results = experiment.run(out, Bars(shown, keep=False))
    if as_json:
        print(json.dumps(results))
        return
    for table in experiment.tables:
        for line in (table, "", *catalog.made(out, name, table).split("\n")):
            print(printable(line))


def _found(name: str, options: "Options") -> "Experiment":
    from suffice.reproduce import catalog

    try:
        return catalog.find(name, options)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _list(out: Path, as_json: bool) -> None:
    from suffice.reproduce.catalog import EXPERIMENTS

    rows = []
    for name, experiment in EXPERIMENTS.items():
        state, because = experiment.state(out / f"{name}.json")
        rows.append({"name": name, "title": experiment.title, "state": state, "because": because})
    if as_json:
        print(json.dumps(rows))
        return
    table = Table("name", "what", "state", box=box.SIMPLE_HEAD, pad_edge=False)
    table.columns[0].no_wrap = True
    for row in rows:
        state = f"{row['state']}: {row['because']}" if row["because"] else row["state"]
        table.add_row(*map(cell, (row["name"], row["title"], state)))
    console = Console()
    console.print(table)
    say(console, f"Results are looked for in {out}.", wrap=False)
