"""What an estimate of the dropout variation costs: one pass with the estimator, and passes of the teacher.

`python -m benchmarks.variation` prints medians of interleaved runs on one thread, with random weights: speed does
not depend on them. A tower for clicks (39 embedded fields, three hidden layers with dropout) and a convolutional
network for characters with dropout in its head. The peer is the plain loop, T passes with dropout switched on:
torch-uncertainty's `mc_dropout` needs torchvision, which does not install beside this torch.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import suffice
from suffice.utils.timing import interleaved
from suffice.variation.teachers.spreads import Likelihood

FIELDS, BUCKETS, WIDTH = 39, 2000, 16
ROWS = 1024
IMAGES = 256


class Tower(nn.Module):
    """Embedded fields and three hidden layers, each with dropout; answers with a logit (N,)."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(FIELDS * BUCKETS, WIDTH)
        widths = (FIELDS * WIDTH, 256, 128, 64)
        hidden = [(nn.Linear(a, b), nn.ReLU(), nn.Dropout(0.2)) for a, b in pairwise(widths)]
        self.layers = nn.Sequential(*[module for part in hidden for module in part], nn.Linear(widths[-1], 1))

    def forward(self, ids: Tensor) -> Tensor:
        """Logits (N,) of ids (N, fields)."""
        logits: Tensor = self.layers(self.embedding(ids).flatten(1))[:, 0]
        return logits


def convolutional() -> nn.Sequential:
    """A network for 28×28 grey images and 47 classes, with dropout before its last layer."""
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(64 * 49, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, 47)),
    )


def loop(model: nn.Module, x: Tensor, passes: int) -> Tensor:
    """The spread of the outputs as one would write it: dropout on, one pass after the other."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.train()
    spread = torch.stack([model(x) for _ in range(passes)]).std(dim=0)
    model.eval()
    return spread


def estimators(model: nn.Module, x: Tensor, likelihood: Likelihood) -> dict[str, Callable[[], object]]:
    """One pass with an estimator, of each kind."""
    choices = {
        "estimator, auto layers": {"layers": "auto"},
        "estimator, last layer": {"layers": "last"},
        "estimator, all layers": {},
        "estimator, last layer and delta rule": {"layers": "last", "delta": True},
    }
    fitted = {
        name: suffice.fit_variation(
            model,
            x.split(256),
            x.split(256),
            teacher=suffice.MCDropout(passes=4, likelihood=likelihood),
            epochs=5,
            generator=torch.Generator().manual_seed(0),
            **choice,
        )
        for name, choice in choices.items()
    }
    return {name: lambda estimator=estimator: estimator.estimate(x) for name, estimator in fitted.items()}


def compare(title: str, model: nn.Module, x: Tensor, likelihood: Likelihood, repeats: int) -> Table:
    """The table of one network."""
    model.eval()
    ways: dict[str, Callable[[], object]] = {"the plain pass": lambda: model(x)}
    ways |= estimators(model, x, likelihood)
    with torch.no_grad():
        times = interleaved(ways, repeats=4 * repeats)
        slow: dict[str, Callable[[], object]] = {"the plain pass": lambda: model(x)}
        for passes in (50, 100):
            teacher = suffice.MCDropout(passes=passes, likelihood=likelihood)
            slow[f"a plain loop, T = {passes}"] = lambda passes=passes: loop(model, x, passes)
            slow[f"MCDropout, T = {passes}"] = lambda teacher=teacher: teacher(model, x)
        slow |= {"estimator, auto layers": ways["estimator, auto layers"]}
        slow_times = interleaved(slow, repeats=repeats)
    table = Table("", "ms", "× the pass", "a plain loop ÷ it", title=title)
    for measured in (times, slow_times):
        for name, value in measured.items():
            passes = name.rpartition(" ")[2] if "T = " in name else "100"
            peer = slow_times[f"a plain loop, T = {passes}"] if measured is slow_times else None
            ratio = "" if peer is None or name == "the plain pass" else f"{peer / value:.1f}"
            table.add_row(name, f"{value:.1f}", f"{value / measured['the plain pass']:.2f}", ratio)
        table.add_section()
    return table


def main() -> None:
    """Print both tables."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    clicks = torch.arange(FIELDS) * BUCKETS + torch.randint(BUCKETS, (ROWS, FIELDS))
    console = Console()
    console.print(compare(f"tower, {ROWS} rows, one thread", Tower(), clicks, "binary", repeats=5))
    images = torch.rand(IMAGES, 1, 28, 28)
    title = f"convolutional network, {IMAGES} rows, one thread"
    console.print(compare(title, convolutional(), images, "classification", repeats=3))


if __name__ == "__main__":
    main()
