"""Measure the cost of a policy under distribution shift, with frozen thresholds and with running quantiles.

The reference network is trained on scikit-learn's digits, and a policy at half the cost is chosen on validation images.
It then runs on streams of randomly sampled test images, shifted by up to one pixel and all corrupted in the same way.
The cost is the mean number of multiply-adds relative to the policy's expectation.

    python experiments/drift.py

prints a Markdown table and writes the runs as JSON beside this file. It takes about five minutes on one core.
"""

import argparse
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

import suffice
from suffice.budget import drift
from suffice.budget.policy import Policy
from suffice.calibration.calibrated import Calibrated
from suffice.data.sources import digits
from suffice.data.splits.images import Images
from suffice.evaluation import ABLATION
from suffice.reproduce import ledger, markdown
from suffice.training.config import SGDConfig
from suffice.training.loop import train

SEEDS = (0, 1, 2)
EPOCHS = 30
BUDGET = 0.5
STREAM, BATCH, WINDOW = 8000, 50, 500

Corruption = Callable[[Tensor, torch.Generator], Tensor]
CORRUPTIONS: dict[str, Corruption] = {
    "none": lambda x, g: x,
    "noise": lambda x, g: (x + 0.4 * torch.randn(x.shape, generator=g)).clamp(0, 1),
    "blur": lambda x, g: functional.avg_pool2d(functional.pad(x, (1, 1, 1, 1)), 3, stride=1),
    "contrast": lambda x, g: 0.4 * x,
    "brightness": lambda x, g: (x + 0.4).clamp(0, 1),
    "hidden half": lambda x, g: x * (torch.arange(8) < 4),
}
"""Functions of images (N, 1, 8, 8) in [0, 1] and a generator, by name of the corruption."""


def main() -> None:
    """Run all seeds, write the JSON, and print the table."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(1)
    runs = [run_seed(seed) for seed in SEEDS]
    results = {
        "command": "python experiments/drift.py",
        **ledger.provenance(),
        "seeds": SEEDS,
        "budget": BUDGET,
        "stream": {"images": STREAM, "batch": BATCH, "window": WINDOW},
        "runs": runs,
    }
    ledger.write(Path(__file__).with_suffix(".json"), results)
    print(table(runs))


def run_seed(seed: int) -> dict[str, dict[str, dict[str, float]]]:
    """Train and calibrate one network, choose a policy, and run every stream both ways."""
    data, generator = digits.load(seed), torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    network = suffice.models.convnet(num_classes=digits.CLASSES, widths=(4, 16, 64))
    train(network, data.train.shuffled(64, generator=generator), epochs=EPOCHS, optimizer=SGDConfig())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a prior at the edge of its range does not affect the comparison
        loaders = data.train.batches(shuffle=False), data.validation.batches()
        calibrated = suffice.calibrate(network, *loaders, generator=generator, **ABLATION["all"])
    policy = suffice.allocate(calibrated, data.validation.batches(), BUDGET)
    measured = {}
    for name, corrupt in CORRUPTIONS.items():
        stream = sample_stream(data.test, corrupt, generator)
        frozen = measure(calibrated, policy, stream, follow=False)
        running = measure(calibrated, policy, stream, follow=True)
        measured[name] = {"frozen": frozen, "running": running}
    return measured


def sample_stream(test: Images, corrupt: Corruption, generator: torch.Generator) -> Images:
    """Sample a stream of test images, each shifted by up to one pixel and corrupted."""
    rows = torch.randint(len(test.labels), (STREAM,), generator=generator)
    shifted = digits.shift(test.images[rows], torch.randint(-1, 2, (STREAM, 2), generator=generator))
    return Images(corrupt(shifted, generator), test.labels[rows])


def measure(calibrated: Calibrated, policy: Policy, stream: Images, *, follow: bool) -> dict[str, float]:
    """Compute the mean cost relative to the expected cost, and the accuracy."""
    tracker = drift.track(policy, window=WINDOW)
    macs, hits = [], []
    for images, labels in stream.batches(BATCH):
        answer = suffice.run(calibrated, tracker.policy if follow else policy, images)
        tracker = tracker.update(answer)
        macs.append(answer.macs)
        hits.append(answer.label == labels)
    cost = float(torch.cat(macs).double().mean()) / policy.expected
    return {"cost": cost, "accuracy": float(torch.cat(hits).double().mean())}


def table(runs: list[dict[str, dict[str, dict[str, float]]]]) -> str:
    """Format mean ± standard deviation over seeds, and the largest deviation of any seed, in percent."""
    lines = [
        "| corruption | cost, frozen | cost, running | largest deviation | accuracy, frozen | accuracy, running |",
        "|---|---|---|---|---|---|",
    ]
    for name in CORRUPTIONS:
        cells = [spread([run[name][way]["cost"] for run in runs]) for way in ("frozen", "running")]
        cells.append(f"{100 * max(abs(run[name]['running']['cost'] - 1) for run in runs):.1f}")
        cells += [spread([run[name][way]["accuracy"] for run in runs]) for way in ("frozen", "running")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    """Format values as mean ± sample standard deviation, in percent."""
    return markdown.spread([100 * value for value in values], 1)


if __name__ == "__main__":
    main()
