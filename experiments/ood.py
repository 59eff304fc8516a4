"""Compare scores for out-of-distribution detection: letters as inputs of a network trained on digits.

The reference convolutional network is trained on the ten digits of EMNIST; half of the test images are letters. Every
score is evaluated by its AUROC, with digits as the positive class, and by the fraction of letters that are accepted if
95 % of the digits are (FPR95). Nothing is fitted or selected on letters. Because some letters look like digits, both
measures are also computed without those (`LOOKALIKES`, listed before anything was measured by letter).

    python experiments/ood.py DATA

reads DATA/emnist/byclass_test_images.npy.xz and byclass_test_labels.npz (EMNIST ByClass, Cohen et al. 2017;
uint8 (N, 28, 28) and `label62`), prints a Markdown table and writes the runs as JSON beside this file. It takes about
five minutes on one core.
"""

import argparse
import lzma
import string
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import suffice
from suffice import metrics
from suffice.calibration import density
from suffice.data.augment import Crop
from suffice.data.splits.images import Images
from suffice.evaluation import ABLATION
from suffice.network import ExitNetwork
from suffice.reproduce import ledger, markdown
from suffice.training.config import SGDConfig
from suffice.training.loop import train

SEEDS = (0, 1, 2)
TRAIN, VALIDATION, TEST = 10_000, 2_000, 5_000
"""Number of digits in each split; there are as many letters as test digits."""
EPOCHS = 6
DIGITS = 10
LETTERS = string.ascii_uppercase + string.ascii_lowercase
LOOKALIKES = "OoDQ" + "IiLlJj" + "Zz" + "Ss" + "Gb" + "B" + "gq"
"""Letters that look like 0, 1, 2, 5, 6, 8 or 9."""

Scores = dict[str, Callable[[Tensor], Tensor]]
"""Functions from images (N, 1, 28, 28) to scores (N,), higher for digits, by name."""


def main() -> None:
    """Run all seeds, write the JSON, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder that contains emnist/")
    images, labels = read(parser.parse_args().data / "emnist")
    torch.set_num_threads(1)
    runs = [run_seed(images, labels, seed) for seed in SEEDS]
    results = {
        "command": "python experiments/ood.py DATA",
        **ledger.provenance(),
        "seeds": SEEDS,
        "digits": {"train": TRAIN, "validation": VALIDATION, "test": TEST},
        "letters": TEST,
        "lookalikes": LOOKALIKES,
        "runs": runs,
    }
    ledger.write(Path(__file__).with_suffix(".json"), results)
    print(table(runs))


def read(folder: Path) -> tuple[Tensor, Tensor]:
    """Read images (N, 1, 28, 28) uint8 and labels (N,) in 0 … 61: digits, capital letters, small letters."""
    with lzma.open(folder / "byclass_test_images.npy.xz") as file:
        images = torch.from_numpy(np.load(file))
    labels = np.load(folder / "byclass_test_labels.npz")["label62"]
    return images[:, None], torch.from_numpy(labels).long()


def run_seed(images: Tensor, labels: Tensor, seed: int) -> dict[str, object]:
    """Train a network and evaluate all scores, with one seed for the split, the weights, the order and the dropout."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    sizes = [TRAIN, VALIDATION, TEST]
    digit_rows = order[labels[order] < DIGITS][: sum(sizes)].split(sizes)
    training, validation, test = (Images(images[rows] / 255, labels[rows]) for rows in digit_rows)
    rows = order[labels[order] >= DIGITS][:TEST]
    letters = Images(images[rows] / 255, labels[rows] - DIGITS)
    torch.manual_seed(seed)
    network = suffice.models.convnet(num_classes=DIGITS)
    train(
        network,
        training.shuffled(64, generator=generator, augment=Crop(padding=1)),
        epochs=EPOCHS,
        optimizer=SGDConfig(),
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        scores = fit_scores(network, training, validation, generator)
    with torch.no_grad():
        accuracy = metrics.accuracy(network(test.images)[-1], test.labels)
    return {
        "accuracy": float(accuracy),
        "lookalikes": float(1 - distinct(letters).double().mean()),
        "notes": [str(warning.message) for warning in caught],
        "scores": {name: evaluate(score, test.images, letters) for name, score in scores.items()},
    }


def fit_scores(network: ExitNetwork, training: Images, validation: Images, generator: torch.Generator) -> Scores:
    """Return all scores of the last exit, fitted on the training and validation digits."""
    loaders = training.batches(shuffle=False), validation.batches()
    vanilla = suffice.calibrate(network, *loaders, structure=None, temperature=False, ensemble=False)
    choices = ABLATION["all"]
    calibrated = suffice.calibrate(network, *loaders, generator=generator, **choices)
    untempered = suffice.calibrate(network, *loaders, generator=generator, **{**choices, "temperature": False})
    return {
        "max-probability": lambda x: vanilla(x)[-1].log_probs.amax(dim=1),
        "entropy": lambda x: -vanilla(x)[-1].entropy,
        "max-probability, calibrated": lambda x: calibrated(x)[-1].log_probs.amax(dim=1),
        "entropy, calibrated": lambda x: -calibrated(x)[-1].entropy,
        "epistemic": lambda x: -calibrated(x)[-1].epistemic,
        "epistemic, last exit alone": lambda x: -calibrated(x)[-1].members[-1].epistemic,
        "epistemic, temperature=False": lambda x: -untempered(x)[-1].epistemic,
        "density": density.fit(network, loaders[0]),
    }


def evaluate(score: Callable[[Tensor], Tensor], digits: Tensor, letters: Images) -> dict[str, float]:
    """Compute AUROC and FPR95 of digits against all letters, and against those that do not look like digits."""
    of_digits, of_letters = (torch.cat([score(x) for x in images.split(500)]) for images in (digits, letters.images))
    measured = {}
    for suffix, negatives in [("", of_letters), (" distinct", of_letters[distinct(letters)])]:
        values = torch.cat([of_digits, negatives])
        positive = torch.arange(len(values)) < len(of_digits)
        measured[f"auroc{suffix}"] = float(metrics.auroc(values, positive))
        measured[f"fpr95{suffix}"] = float(metrics.fpr95(values, positive))
    return measured


def distinct(letters: Images) -> Tensor:
    """Return which letters are not in `LOOKALIKES`, (N,) bool."""
    return torch.tensor([letter not in LOOKALIKES for letter in LETTERS])[letters.labels]


def table(runs: list[dict[str, object]]) -> str:
    """Format mean ± standard deviation over seeds, in percent."""
    lines = [
        "| score | AUROC, % | FPR95, % | AUROC, distinct letters | FPR95, distinct letters |",
        "|---|---|---|---|---|",
    ]
    for name, measured in runs[0]["scores"].items():
        cells = [spread([run["scores"][name][measure] for run in runs]) for measure in measured]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"accuracy on digits: {spread([run['accuracy'] for run in runs])} %"])


def spread(values: list[float]) -> str:
    """Format values as mean ± sample standard deviation, in percent."""
    return markdown.spread([100 * value for value in values], 1)


if __name__ == "__main__":
    main()
