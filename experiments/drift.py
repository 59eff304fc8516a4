"""What does a policy cost when its inputs change, with frozen and with running thresholds?

The reference network learns scikit-learn's digits; a policy at half the cost is made on validation images. Then a
stream of test images comes, each drawn at random and moved by up to one pixel, corrupted in one of five ways from
beginning to end. The mean multiply-adds are given as a share of what the policy expects, with the accuracy.

    python experiments/drift.py

prints a Markdown table and writes the runs as JSON beside this file. Some five minutes on one core.
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
from suffice.data.images import Images
from suffice.data.sources import digits
from suffice.reproduce import ledger, markdown
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
"""By name: of images (N, 1, 8, 8) in [0, 1] and randomness."""


def main() -> None:
    """Run all seeds, print the table, write the JSON."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(1)
    runs = [one_seed(seed) for seed in SEEDS]
    results = {
        "command": "python experiments/drift.py",
        **ledger.circumstances(),
        "seeds": SEEDS,
        "budget": BUDGET,
        "stream": {"images": STREAM, "batch": BATCH, "window": WINDOW},
        "runs": runs,
    }
    ledger.write(Path(__file__).with_suffix(".json"), results)
    print(table(runs))


def one_seed(seed: int) -> dict[str, dict[str, dict[str, float]]]:
    """Train, calibrate, allocate, and run every stream both ways."""
    data, generator = digits.load(seed), torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    network = suffice.models.convnet(num_classes=digits.CLASSES, widths=(4, 16, 64))
    train(network, data.train.shuffled(64, generator=generator), epochs=EPOCHS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # priors may end at an edge; thresholds do not mind
        calibrated = suffice.calibrate(network, data.train.batches(), data.validation.batches(), generator=generator)
    policy = suffice.allocate(calibrated, data.validation.batches(), BUDGET)
    measured = {}
    for name, corrupt in CORRUPTIONS.items():
        stream = drawn(data.test, corrupt, generator)
        frozen, running = measure(calibrated, policy, stream, False), measure(calibrated, policy, stream, True)
        measured[name] = {"frozen": frozen, "running": running}
    return measured


def drawn(test: Images, corrupt: Corruption, generator: torch.Generator) -> Images:
    """A stream of test images, each moved by up to one pixel, corrupted."""
    rows = torch.randint(len(test.labels), (STREAM,), generator=generator)
    moved = digits.shift(test.images[rows], torch.randint(-1, 2, (STREAM, 2), generator=generator))
    return Images(corrupt(moved, generator), test.labels[rows])


def measure(calibrated: Calibrated, policy: Policy, stream: Images, follow: bool) -> dict[str, float]:
    """Mean cost as a share of the expected one, and accuracy."""
    tracker = drift.follow(policy, window=WINDOW)
    macs, right = [], []
    for images, labels in stream.batches(BATCH):
        answer = suffice.run(calibrated, tracker.policy if follow else policy, images)
        tracker = tracker.update(answer)
        macs.append(answer.macs)
        right.append(answer.label == labels)
    cost = float(torch.cat(macs).double().mean()) / policy.expected
    return {"cost": cost, "accuracy": float(torch.cat(right).double().mean())}


def table(runs: list[dict[str, dict[str, dict[str, float]]]]) -> str:
    """Mean ± standard deviation over seeds, in percent; the furthest that any seed was off."""
    lines = [
        "| corruption | cost, frozen | cost, running | furthest, running | accuracy, frozen | accuracy, running |",
        "|---|---|---|---|---|---|",
    ]
    for name in CORRUPTIONS:
        cells = [spread([run[name][way]["cost"] for run in runs]) for way in ("frozen", "running")]
        cells.append(f"{100 * max(abs(run[name]['running']['cost'] - 1) for run in runs):.1f}")
        cells += [spread([run[name][way]["accuracy"] for run in runs]) for way in ("frozen", "running")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    """Mean ± sample standard deviation, in percent."""
    return markdown.spread([100 * value for value in values], 1)


if __name__ == "__main__":
    main()
