"""Compare two kinds of policy at the same cost: the paper's geometric shares and optimal thresholds.

The reference network is trained on scikit-learn's digits (a third of the validation and test images shifted or noised).
Policies for five budgets, three scores and both methods are chosen on validation images and evaluated on 4,000
perturbed copies of the test images. A budget is a fraction of the way from the cost of the first exit to that of the
last.

    python experiments/budgets.py

prints a Markdown table and writes the runs as JSON beside this file. It takes about five minutes on one core.
"""

import argparse
import statistics
import warnings
from pathlib import Path

import torch

import suffice
from suffice.calibration.calibrated import Calibrated
from suffice.data.sources import digits
from suffice.data.sources.digits import Digits
from suffice.data.splits.images import Images
from suffice.evaluation import ABLATION
from suffice.reproduce import ledger
from suffice.training.config import SGDConfig
from suffice.training.loop import train

SEEDS = (0, 1, 2, 3, 4)
EPOCHS = 30
LADDER = (0.1, 0.25, 0.5, 0.75, 0.9)
SCORES = ("confidence", "epistemic", "patience")
METHODS = ("geometric", "optimal")
TEST = 4000


def main() -> None:
    """Run all seeds, write the JSON, and print the table."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(1)
    runs = [run_seed(seed) for seed in SEEDS]
    results = {
        "command": "python experiments/budgets.py",
        **ledger.provenance(),
        "seeds": SEEDS,
        "ladder": LADDER,
        "runs": runs,
    }
    ledger.write(Path(__file__).with_suffix(".json"), results)
    print(table(runs))


def run_seed(seed: int) -> list[dict[str, object]]:
    """Train and calibrate one network, and evaluate every policy on the same test images."""
    data, generator = digits.load(seed), torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    network = suffice.models.convnet(num_classes=digits.CLASSES, widths=(4, 16, 64))
    train(network, data.train.shuffled(64, generator=generator), epochs=EPOCHS, optimizer=SGDConfig())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a prior at the edge of its range does not affect the comparison
        loaders = data.train.batches(shuffle=False), data.validation.batches()
        calibrated = suffice.calibrate(network, *loaders, generator=generator, **ABLATION["all"])
    rows = torch.randint(len(data.test.labels), (TEST,), generator=generator)
    test = Images(digits.perturb(data.test.images[rows], 1 / 3, generator=generator), data.test.labels[rows])
    return [
        {
            "score": score,
            "method": method,
            "budget": fraction,
            **evaluate(calibrated, data, test, score, method, fraction),
        }
        for score in SCORES
        for fraction in LADDER
        for method in METHODS
    ]


def evaluate(
    calibrated: Calibrated, data: Digits, test: Images, score: str, method: str, fraction: float
) -> dict[str, float]:
    """Compute accuracy and cost of one policy on the test images; costs are fractions of the last exit's."""
    costs = calibrated.costs.cumulative
    budget = costs[0] + fraction * (costs[-1] - costs[0])
    loader = data.validation.batches()
    policy = suffice.allocate(calibrated, loader, budget, unit="macs", score=score, method=method)
    answers = [suffice.run(calibrated, policy, images) for images, _ in test.batches(500)]
    labels, macs = (torch.cat([getattr(answer, name) for answer in answers]) for name in ("label", "macs"))
    return {
        "accuracy": float((labels == test.labels).double().mean()),
        "cost": float(macs.double().mean()) / costs[-1],
        "asked": budget / costs[-1],
    }


def table(runs: list[list[dict[str, object]]]) -> str:
    """Format means over seeds in percent, and the difference of the methods with its standard deviation over seeds."""
    lines = [
        "| score | budget | accuracy, geometric | accuracy, optimal | difference | cost, geometric | cost, optimal |",
        "|---|---|---|---|---|---|---|",
    ]
    for score in SCORES:
        for fraction in LADDER:
            rows = {
                method: [row for run in runs for row in run if matches(row, score, method, fraction)]
                for method in METHODS
            }
            accuracy, cost = ({m: [100 * row[key] for row in rows[m]] for m in METHODS} for key in ("accuracy", "cost"))
            gains = [a - b for a, b in zip(accuracy["optimal"], accuracy["geometric"], strict=True)]
            cells = [f"{statistics.mean(accuracy[m]):.1f}" for m in METHODS]
            cells.append(f"{statistics.mean(gains):+.1f} ± {statistics.stdev(gains):.1f}")
            cells += [f"{statistics.mean(cost[m]):.1f}" for m in METHODS]
            budget = 100 * statistics.mean(row["asked"] for row in rows["geometric"])
            lines.append(f"| {score} | {budget:.0f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def matches(row: dict[str, object], score: str, method: str, fraction: float) -> bool:
    """Return whether a row belongs to this policy."""
    return (row["score"], row["method"], row["budget"]) == (score, method, fraction)


if __name__ == "__main__":
    main()
