"""The command `suffice export`: a run as a bundle of graphs, checked on data."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from suffice.cli.bars import Bars, progress_display
from suffice.cli.terminal import cell, print_line

if TYPE_CHECKING:
    from suffice.deploy.parity import Parity
    from suffice.runs.checking import Check

_MEASURES = 5
"""Number of measures in the table."""


def command(
    run: Annotated[str, typer.Argument(help="Folder of a run, or name of a pretrained network.")],
    out: Annotated[Path, typer.Option(help="Folder of the bundle.")],
    network: Annotated[
        str | None, typer.Option(help="Function that returns the network: package.module:function.")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Weights of the network: .safetensors, or a state dict saved by torch.")
    ] = None,
    check: Annotated[
        str | None,
        typer.Option(help="Data to check the bundle on: name in the store, digits, or package.module:function."),
    ] = None,
    example: Annotated[
        Path | None, typer.Option(help="Example of inputs without --check: .npy with one array, or .npz.")
    ] = None,
    variation: Annotated[
        bool, typer.Option("--variation/--no-variation", help="Export the variation estimator of the run, if any.")
    ] = True,
    int8: Annotated[bool, typer.Option("--int8", help="Compute in 8-bit integers.")] = False,
    opset: Annotated[int, typer.Option(help="Version of the ONNX operators, 18 to 23.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Export a run to a bundle of ONNX graphs, which needs no PyTorch, and check it on data.

    A run is a folder with what `suffice.save` wrote: calibrated, and policy and variation if there are. The network is
    that of the folder, as `suffice demo` writes it, or the one that --network and --weights name.

    With --check the bundle's predictions and exits are compared with those of the network on the test part, and the
    quality and the time of both are printed. --int8 needs it: scales, temperatures and thresholds are chosen on the
    validation part.

    Example: suffice export cifar100-msdnet-small --out bundle --int8 --check cifar100
    """
    import torch

    from suffice.runs import datasets, exporting, folder

    if (check is None) == (example is None):
        got = "neither" if check is None else "both"
        raise typer.BadParameter(f"expected one of --check and --example, got {got}")
    if int8 and check is None:
        raise typer.BadParameter("expected --check with --int8, which needs data, got none")
    torch.set_num_threads(1)  # as the bundle runs, whose time is compared
    made, checked = folder.read(run, network, weights, variation=variation), None
    if check is None:
        assert example is not None
        exporting.write(made, out, exporting.read_example(example), opset)
    else:
        with progress_display(Console(stderr=True)) as display:
            checked = exporting.write_checked(made, out, datasets.load(check), int8, opset, Bars(display, keep=False))
    sizes = {file.name: file.stat().st_size for file in sorted(out.glob("*.onnx"))}
    if as_json:
        print(json.dumps({"bundle": str(out), "bytes": sizes, "check": checked and asdict(checked)}))
    else:
        _print(Console(), out, sizes, checked)


def _print(console: Console, out: Path, sizes: Mapping[str, int], checked: "Check | None") -> None:
    """Print the files, the tables of the check, and last what was compared."""
    files = Table("graph", "MB", box=box.SIMPLE_HEAD, pad_edge=False)
    files.columns[1].justify = "right"
    for name, size in sizes.items():
        files.add_row(cell(name), f"{size / 1e6:.2f}")
    console.print(files)
    if checked is None:
        print_line(console, f"{out} was written. It was not compared with the network: no --check.")
        return
    if checked.measures:
        console.print(_measures(checked))
        console.print(_times(checked))
    for what, found in (("predictions", checked.parity), ("estimates", checked.estimates)):
        if found is not None:
            print_line(console, _sentence(what, found))
    print_line(console, f"{out} was written.")


def _measures(checked: "Check") -> Table:
    """Return the table of the measures at the last exit."""
    names = list(next(iter(checked.measures.values())))[:_MEASURES]
    table = Table("last exit", *names, box=box.SIMPLE_HEAD, pad_edge=False)
    for network, values in checked.measures.items():
        table.add_row(cell(network), *(f"{values[name]:.4f}" for name in names))
    return table


def _times(checked: "Check") -> Table:
    """Return the table of the times of a batch."""
    table = Table(f"batch of {checked.batch}, one thread", "ms", box=box.SIMPLE_HEAD, pad_edge=False)
    for what, milliseconds in checked.milliseconds.items():
        table.add_row(cell(what), f"{milliseconds:.2f}")
    return table


def _sentence(what: str, found: "Parity") -> str:
    """Describe a comparison in a sentence."""
    moved = f", and {found.moved:,} stop at another exit, with scores within {found.distance:.1e} of a threshold"
    same = ", and all stop at the same exit" if what == "predictions" else ""
    return (
        f"On {found.examples:,} examples the {what} of the bundle differ by at most {max(found.differences):.1e} from "
        f"those of the exported network in PyTorch{moved if found.moved else same}."
    )
