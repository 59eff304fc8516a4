"""Judge the alarm of a variation estimator on blank images: is a distance that is too small a sign of them?

    python experiments/blank.py

Three small convolutional networks are trained on scikit-learn's digits, with three seeds. One ends with all positions
of its features, one has batch normalization and ends with their mean over positions, and one with their mean alone,
which leaves it the least accurate. Estimators of the dropout variation read all
activations, the last one, or the margins alone. Blank images are constant, at eleven gray levels from black to white.
Measures are the share of images at a distance above 1; the share below the 0.5 % quantile of the training images, the
other tail; the rank of a blank image's distance among those of the training images, lowest first; and the estimate
relative to the spread of 400 passes, greatest over the gray levels. Nothing is fitted or selected on blank images.
Prints a Markdown table and writes `blank.json` beside this file; about two minutes on one core.
"""

from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

import suffice
from suffice.reproduce import ledger, markdown

SEEDS, EPOCHS, PASSES, TRUTH = (0, 1, 2), 12, 10, 400
TRAIN, VALIDATION = 900, 500
LAYERS: dict[str, Any] = {"all": None, "last": "last", "margins alone": ["<margins>"]}
BLANK = torch.linspace(0, 1, 11)[:, None, None, None].expand(-1, 1, 8, 8)
LOWEST = 0.005
KINDS = ("test", "blank")


def positions() -> nn.Sequential:
    """Return a network that ends with all positions of its features."""
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Dropout(0.5), nn.Linear(128, 10)),
    )


def pooled() -> nn.Sequential:
    """Return a network with batch normalization that ends with the mean of its features over positions."""
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout2d(0.1)),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.3), nn.Linear(64, 10)),
    )


def plain() -> nn.Sequential:
    """Return a network without normalization that ends with the mean of its features over positions."""
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(32, 10)),
    )


NETWORKS = {"all positions": positions, "mean over positions, normalized": pooled, "mean over positions": plain}


def trained(network: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> nn.Module:
    """Train a network on images x with labels y."""
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(x), generator=generator).split(64):
            optimizer.zero_grad()
            functional.cross_entropy(network(x[rows]), y[rows]).backward()
            optimizer.step()
    return network.eval()


def measure(network: nn.Module, parts: tuple[Tensor, ...], labels: Tensor, layers: Any, seed: int) -> dict[str, Any]:
    """Fit one estimator and judge it on test images and blank ones."""
    train, validation, test = parts
    generator, teacher = torch.Generator().manual_seed(seed), suffice.MCDropout(passes=PASSES)
    estimator = suffice.fit_variation(
        network, [train], [validation], teacher=teacher, layers=layers, generator=generator
    )
    familiar = estimator.estimate(train).distance
    lowest = familiar.quantile(LOWEST)
    blank = estimator.estimate(BLANK)
    truth = teacher.with_passes(TRUTH)(network, BLANK, generator=generator)["std"]
    with torch.no_grad():
        accuracy = _share(network(test).argmax(dim=1) == labels)
    return {
        "accuracy": accuracy,
        "r_squared": estimator.quality.r_squared,
        "beyond": {"test": _share(estimator.estimate(test).outside), "blank": _share(blank.outside)},
        "below": {"test": _share(estimator.estimate(test).distance < lowest), "blank": _share(blank.distance < lowest)},
        "least_rank": float((familiar < blank.distance.min()).double().mean()),
        "greatest_ratio": float((blank.variation.double() / truth).max()),
    }


def _share(flags: Tensor) -> float:
    return float(flags.double().mean())


def main() -> None:
    """Run all seeds, write the JSON, and print the table."""
    torch.set_num_threads(1)
    digits = load_digits()
    images, labels = torch.tensor(digits.images).float()[:, None] / 16, torch.tensor(digits.target)
    runs: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for seed in SEEDS:
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(images), generator=generator)
        parts = images[order].split([TRAIN, VALIDATION, len(images) - TRAIN - VALIDATION])
        for name, make in NETWORKS.items():
            torch.manual_seed(seed)
            network = trained(make(), parts[0], labels[order[:TRAIN]], generator)
            for chosen, layers in LAYERS.items():
                found = measure(network, parts, labels[order[TRAIN + VALIDATION :]], layers, seed)
                runs.setdefault(name, {}).setdefault(chosen, []).append(found)
    results = {"command": "python experiments/blank.py", **ledger.provenance(), "seeds": SEEDS, "runs": runs}
    ledger.write(Path(__file__).with_suffix(".json"), results)
    print(table(runs))


def table(runs: dict[str, dict[str, list[dict[str, Any]]]]) -> str:
    """Format the measures, mean ± standard deviation over the seeds."""
    lines = [
        "| layers | test above 1, % | blank above 1, % | test in the lower tail, % | blank in the lower tail, % "
        "| least rank of a blank, % | greatest estimate/truth of a blank |",
        f"|---|{'---|' * 6}",
    ]
    for network, choices in runs.items():
        accuracy = markdown.spread([100 * run["accuracy"] for run in choices["all"]], 1)
        lines.append(f"| **{network}**, accuracy {accuracy} % |{' |' * 6}")
        for chosen, seeds in choices.items():
            shares = [[100 * run[tail][kind] for run in seeds] for tail in ("beyond", "below") for kind in KINDS]
            ranks = [100 * run["least_rank"] for run in seeds]
            cells = [*(markdown.spread(values, 1) for values in (*shares, ranks))]
            cells.append(markdown.spread([run["greatest_ratio"] for run in seeds], 1))
            lines.append(f"| {chosen} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
