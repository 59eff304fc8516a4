"""Cost of estimating the dropout variation: one pass with an estimator, and T passes of the teacher.

`python -m benchmarks.variation` prints medians of interleaved runs on one thread, with random weights, which do not
affect the speed. The models are a tower for clicks (39 embedded fields, three hidden layers with dropout) and a
convolutional network for characters with dropout in its head. The peer is a plain loop of T passes with dropout
enabled: torch-uncertainty's `mc_dropout` needs torchvision, which cannot be installed with this version of torch.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import suffice
from suffice.utils.timing import interleaved
from suffice.variation.teachers.spreads import LikelihoodName

FIELDS, BUCKETS, WIDTH = 39, 2000, 16
ROWS = 1024
IMAGES = 256


class Tower(nn.Module):
    """Tower of embedded fields and three hidden layers, each with dropout; returns logits (N,)."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(FIELDS * BUCKETS, WIDTH)
        widths = (FIELDS * WIDTH, 256, 128, 64)
        hidden = [(nn.Linear(a, b), nn.ReLU(), nn.Dropout(0.2)) for a, b in pairwise(widths)]
        self.layers = nn.Sequential(*[module for block in hidden for module in block], nn.Linear(widths[-1], 1))

    def forward(self, ids: Tensor) -> Tensor:
        """Compute logits (N,) from ids (N, fields)."""
        logits: Tensor = self.layers(self.embedding(ids).flatten(1))[:, 0]
        return logits


def convolutional() -> nn.Sequential:
    """Build a network for 28×28 gray images and 47 classes, with dropout before its last layer."""
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(64 * 49, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, 47)),
    )


def loop(model: nn.Module, x: Tensor, passes: int) -> Tensor:
    """Compute the spread of the outputs with a plain loop over passes with dropout enabled."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.train()
    spread = torch.stack([model(x) for _ in range(passes)]).std(dim=0)
    model.eval()
    return spread


def estimators(model: nn.Module, x: Tensor, likelihood: LikelihoodName) -> dict[str, Callable[[], object]]:
    """Return functions that run one pass with an estimator, by name of the estimator."""
    options = {
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
            **arguments,
        )
        for name, arguments in options.items()
    }
    return {name: lambda estimator=estimator: estimator.estimate(x) for name, estimator in fitted.items()}


def compare(title: str, model: nn.Module, x: Tensor, likelihood: LikelihoodName, repeats: int) -> Table:
    """Measure one network and return its table."""
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
    """Run the benchmark and print its tables."""
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
