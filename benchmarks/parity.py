"""Parity of bundles with their networks on 10,000 examples each: images, clicks and texts.

`make bench-parity` prints, for each case whose data are stored, the largest difference of a probability at any exit,
and the examples that stop at another exit, with the distance of their score from the threshold. The images are
CIFAR-100's test part and the network is the pretrained one; clicks and texts have networks that are trained here for a
short time.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import suffice
from suffice import data, training
from suffice.batches import Loader
from suffice.budget.policy import Policy
from suffice.calibration.calibrated import Calibrated
from suffice.deploy import parity
from suffice.network import State
from suffice.reproduce.dropout import recommenders
from suffice.reproduce.early_exit.text import minilm

EXAMPLES, BATCH = 10_000, 100
FITTED = 2000
"""Number of texts that the exits are fitted to."""


@dataclass(frozen=True)
class Case:
    """Calibrated network with a policy, and the examples to compare.

    Attributes:
        calibrated: Calibrated network.
        policy: Policy with a budget below the last exit.
        example: Batch for the export.
        loader: Batches of the examples.
    """

    calibrated: Calibrated
    policy: Policy
    example: State
    loader: Loader


def images() -> Case:
    """Return the pretrained network for CIFAR-100."""
    pretrained = suffice.models.pretrained("cifar100-msdnet-small")
    test = data.load("cifar100", seed=0).test.batches(BATCH, shuffle=False)
    return Case(pretrained.calibrated, pretrained.policy, torch.zeros(2, 3, 32, 32), test)


def clicks() -> Case:
    """Train a tower with three exits on clicks for one epoch."""
    config = recommenders.CRITEO
    sizes, splits, _ = recommenders.read(config)
    torch.manual_seed(0)
    x, labels = splits["train"]
    numeric = x["numeric"].shape[1]
    tower = suffice.models.tower(sizes, numeric=numeric, hidden=config.hidden, exits_after=(1, 2))
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(labels), generator=generator).split(config.batch)
    training.train(tower, [(_rows(x, rows), labels[rows]) for rows in order], epochs=1, likelihood="binary")
    parts = {name: _batches(*splits[name]) for name in ("validation", "test")}
    calibrated = suffice.calibrate(tower.eval(), None, parts["validation"], likelihood="binary", structure=None)
    policy = suffice.allocate(calibrated, parts["validation"], budget=0.85)  # the first exit costs .73
    return Case(calibrated, policy, _rows(x, torch.arange(2)), parts["test"])


def texts() -> Case:
    """Fit exits to MiniLM's frozen layers, with requests of 150 intents."""
    requests, _ = minilm.load()
    recipe = minilm.RECIPES["frozen"]
    network = minilm.attach(recipe.model(requests.num_classes), requests.example, freeze=True)
    torch.manual_seed(0)
    network.exits.requires_grad_(True)
    fitted = requests.train.subset(torch.randperm(len(requests.train))[:FITTED].sort().values)
    training.train(network, fitted.batches(BATCH), epochs=1)
    network.requires_grad_(False).eval()
    validation = requests.batches("validation", BATCH)
    calibrated = suffice.calibrate(network, None, validation, structure=None)
    policy = suffice.allocate(calibrated, validation, budget=0.5)
    return Case(calibrated, policy, requests.example, requests.train.batches(BATCH, shuffle=False))


CASES: dict[str, Callable[[], Case]] = {
    "CIFAR-100, MSDNet small": images,
    "Criteo, tower": clicks,
    "CLINC150, MiniLM": texts,
}


def _rows(x: dict[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
    return {name: values[rows] for name, values in x.items()}


def _batches(x: dict[str, Tensor], labels: Tensor) -> list[tuple[dict[str, Tensor], Tensor]]:
    return [(_rows(x, rows), labels[rows]) for rows in torch.arange(len(labels)).split(BATCH)]


def main() -> None:
    """Run the comparisons and print their table."""
    torch.set_num_threads(1)
    console = Console()
    table = Table("network", "examples", "largest difference", "other exits", "their distance", "holds to 1e-4")
    for name, make in CASES.items():
        try:
            case = make()
        except (FileNotFoundError, ImportError) as error:
            console.print(f"{name}: left out, {error}")
            continue
        with tempfile.TemporaryDirectory() as folder:
            suffice.export(case.calibrated, f"{folder}/bundle", policy=case.policy, example=case.example)
            start, some = time.perf_counter(), list(islice(case.loader, EXAMPLES // BATCH))
            found = parity.compare(case.calibrated, f"{folder}/bundle", some, case.policy)
        console.print(f"{name}: {time.perf_counter() - start:.0f} s")
        greatest = f"{max(found.differences):.1e}"
        moved = (f"{found.moved:,}", f"{found.distance:.1e}") if found.moved else ("0", "")
        table.add_row(name, f"{found.examples:,}", greatest, *moved, "yes" if found.holds() else "no")
    console.print(table)


if __name__ == "__main__":
    main()
