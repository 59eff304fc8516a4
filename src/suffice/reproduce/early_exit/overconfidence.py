"""Comparison of calibrations on networks of different overconfidence: what each part adds to a temperature.

Every network (`overconfident_networks`) gets the rows of the ablation, the paper's method whole, products of the exits
with tuned weights, and the default of `calibrate`, by the same evaluation as the other tables of paper one.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from suffice import evaluation
from suffice.evaluation.ablation import AblationStudy, row
from suffice.network import ExitNetwork
from suffice.reproduce.early_exit import measurements, overconfident_networks
from suffice.reproduce.early_exit.overconfident_networks import (
    EPOCHS,
    HEAD_BATCH,
    HEAD_EPOCHS,
    HEAD_RATE,
    HELD_OUT,
    NETWORKS,
    SEEDS,
    SOURCE,
    OverconfidentNetwork,
)
from suffice.reproduce.ledger import Ledger, Results
from suffice.utils.progress import ProgressCallback

PAPER, PRODUCT, BOTH, DEFAULT = "as the paper", "product, tuned weights", "Laplace + product, tuned weights", "default"

ROWS: dict[str, dict[str, Any]] = {
    **evaluation.ABLATION,
    PAPER: {"preset": "paper"},
    PRODUCT: {"structure": None, "ensemble": "product", "ensemble_weights": "tuned"},
    BOTH: measurements.BEYOND[measurements.TUNED_PRODUCT],
    DEFAULT: measurements.BEYOND[measurements.DEFAULT],
}
"""Rows of the tables, as arguments of `calibrate`."""

PAIRS = {
    "temperature, to vanilla": ("vanilla", "temperature"),
    "Laplace": ("temperature", "Laplace + temperature"),
    "average of the exits": ("temperature", "ensemble + temperature"),
    "Laplace and average": ("temperature", "all"),
    "the paper's method": ("temperature", PAPER),
    "product, tuned weights": ("temperature", PRODUCT),
    "the default": ("temperature", DEFAULT),
    "Laplace, to the product": (PRODUCT, BOTH),
}
"""Pairs of rows (without, with), by the part that the second row adds to the first, a temperature unless named."""

FACTS, ADDED = "network", "added"
"""Keys of the runs of a network that are no rows."""


def key(name: str, run: str) -> str:
    """Return the key of a run of the network with this name."""
    return f"{name}: {run}"


def keys(name: str) -> list[str]:
    """Return the keys of all runs of the network with this name."""
    return [key(name, run) for run in (FACTS, *ROWS, ADDED)]


KEYS = [each for network in NETWORKS[:3] for each in keys(network.name(SEEDS[0]))]
"""Keys of the runs that the tables need: of one seed of the networks that are not trained from scratch."""


def run(out: Path, progress: ProgressCallback) -> Results:
    """Train, calibrate and evaluate all networks, and write `out/overconfidence.json`.

    Raises:
        FileNotFoundError: If CIFAR-100 is not in the store.
        ValueError: If `out` holds results of other settings or of other networks.
    """
    settings = {"epochs": EPOCHS, "head epochs": HEAD_EPOCHS, "head batch": HEAD_BATCH, "head rate": HEAD_RATE}
    splits = {f"{SOURCE}, seed {seed}": overconfident_networks.load(seed).split for seed in SEEDS}
    book = Ledger(
        out / "overconfidence.json",
        "suffice reproduce overconfidence",
        {**settings, "head calibration images": HELD_OUT},
        splits,
    )
    for seed in SEEDS:
        for network in NETWORKS:
            if seed in network.seeds:
                name = network.name(seed)
                book.fill(name, _measures(name), partial(_make, network, seed, out, progress))
    return book.results


def _make(
    network: OverconfidentNetwork, seed: int, out: Path, progress: ProgressCallback
) -> tuple[ExitNetwork, AblationStudy]:
    study = network.make(seed, out, progress)
    return study.network, study


def _measures(name: str) -> dict[str, Callable[[AblationStudy], Results]]:
    rows = {key(name, each): partial(_row, choices=choices) for each, choices in ROWS.items()}
    return {key(name, FACTS): facts, **rows, key(name, ADDED): added}


def facts(study: AblationStudy) -> dict[str, Any]:
    """Return the numbers of training and calibration examples, examples per feature, and training errors by exit."""
    return {
        "train": len(study.train.labels),
        "validation": len(study.validation.labels),
        "test": len(study.test.labels),
        "per feature": overconfident_networks.examples_per_feature(study.train),
        "training error": overconfident_networks.training_error(study),
    }


def _row(study: AblationStudy, choices: dict[str, Any]) -> dict[str, Any]:
    """Compute a row without its curves, and whether it predicts with a posterior."""
    measured = row(study, **choices)
    calibrated, _ = study.calibrated(**choices)
    kept = {name: measured[name] for name in ("notes", "tuned", "averaged", "intervals", "exits")}
    return {"posterior": any(exit_.uses_posterior for exit_ in calibrated.exits), **kept}


def added(study: AblationStudy) -> dict[str, dict[str, Any]]:
    """Compute the differences of the rows in `PAIRS`, as `measurements.differences` does."""
    return measurements.differences(study, ROWS, PAIRS)


def measured_networks(results: Results) -> list[OverconfidentNetwork]:
    """Return the networks whose runs are complete, the least overconfident first.

    A network is shown with the seeds that are complete, once there is one.
    """
    shown = []
    for network in NETWORKS:
        complete = [seed for seed in network.seeds if results["runs"].keys() >= set(keys(network.name(seed)))]
        if complete:
            shown.append(replace(network, seeds=tuple(complete)))
    return sorted(shown, key=lambda network: overconfidence(results, network))


def overconfidence(results: Results, network: OverconfidentNetwork) -> float:
    """Return the calibration error of the uncalibrated network over the budgets, the mean over its seeds."""
    values: list[float] = [
        results["runs"][key(name, "vanilla")]["measured"]["averaged"]["ece"] for name in network.names
    ]
    return sum(values) / len(values)


def unmeasured(results: Results) -> list[str]:
    """Return the names of the networks whose runs are not complete."""
    shown = {name for network in measured_networks(results) for name in network.names}
    return [name for network in NETWORKS for name in network.names if name not in shown]
