"""The whole path on handwritten digits: train, calibrate, spend half a budget, learn the dropout variation.

A program to read: every step calls the public API and returns plain numbers. `suffice demo` prints them, and
`suffice.report` draws them.
"""

import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import suffice
from suffice import evaluation, metrics
from suffice.budget.policy import Policy
from suffice.calibration.calibrated import Calibrated
from suffice.cost import interleaved
from suffice.data import digits
from suffice.data.digits import Digits
from suffice.evaluation import ABLATION, Outcome
from suffice.network import ExitNetwork
from suffice.training import train
from suffice.variation import comparison
from suffice.variation.estimator import VariationEstimator

Results = dict[str, Any]
Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""

EPOCHS = 40
WIDTHS = (4, 16, 64)
"""Channels of the stages: a narrow first one, so that going on is worth something."""
BUDGET = 0.5
PASSES = 10
TRUTH_PASSES = 1000
COPIES = 8
"""Perturbed copies of the training images that the variation estimator learns from; they need no labels."""


def run(seed: int, out: Path, progress: Progress) -> Results:
    """All steps, with the artifacts written under `out`.

    Everything but `timing` is the same for the same seed on the same machine and versions.
    """
    data = digits.load(seed)
    network = _train(data, seed, progress)
    calibrated, full, rows = _ablation(network, data, seed, progress)
    policy = suffice.allocate(calibrated, data.validation.batches(), BUDGET)
    estimator, estimates = _variation(network, data, seed, progress)
    results: Results = {
        "seed": seed,
        "versions": {"suffice": suffice.__version__, "torch": torch.__version__},
        "data": {name: len(getattr(data, name).labels) for name in ("train", "validation", "test")},
        "ablation": rows,
        "notes": [note for row in rows for note in row["notes"]],
        "overlap": _overlap(rows),
        "budget": _spend(calibrated, policy, data, full),
        "timing": _timing(calibrated, policy, data),
        "variation": estimates,
        "artifact": _save_and_reload(calibrated, policy, estimator, data, out),
    }
    return {**results, "about": _about(results), "closing": _closing(results)}


def _train(data: Digits, seed: int, progress: Progress) -> ExitNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = suffice.models.convnet(num_classes=digits.CLASSES, widths=WIDTHS)
        shuffled = data.train.shuffled(64, generator=torch.Generator().manual_seed(seed))
        train(network, shuffled, epochs=EPOCHS, on_epoch=lambda epoch, _: progress("train", epoch, EPOCHS))
    return network


def _ablation(
    network: ExitNetwork, data: Digits, seed: int, progress: Progress
) -> tuple[Calibrated, Outcome, list[Results]]:
    """Every row of the ablation, tuned on the validation images and judged on the test images."""
    rows = []
    for done, (name, choices) in enumerate(ABLATION.items(), start=1):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            calibrated = suffice.calibrate(
                network,
                data.train.batches(),
                data.validation.batches(),
                generator=torch.Generator().manual_seed(seed),
                **choices,
            )
        validation = evaluation.predict(calibrated, data.validation.batches())
        test = evaluation.predict(calibrated, data.test.batches())
        notes = [f"{name}: {warning.message}" for warning in caught]
        generator = torch.Generator().manual_seed(seed)
        summary = evaluation.summary(calibrated, validation, test, generator=generator)
        rows.append({"name": name, "notes": notes, **summary})
        progress("calibrate", done, len(ABLATION))
    return calibrated, test, rows


def _overlap(rows: list[Results]) -> str:
    """What the intervals of the calibration error allow to be said."""
    intervals = {row["name"]: row["intervals"]["ece"] for row in rows}
    low, _ = intervals["vanilla"]
    better = [name for name, (_, top) in intervals.items() if top < low]
    rest = [name for name in intervals if name not in better and name != "vanilla"]
    best = min(intervals.values(), key=lambda interval: interval[1])
    tied = [name for name, (bottom, _) in intervals.items() if bottom <= best[1]]
    clear = f"Clearly below vanilla: {', '.join(better)}. " if better else "No row is clearly below vanilla. "
    unclear = f"Not clearly below it: {', '.join(rest)}. " if rest else ""
    if len(tied) == 1:
        return f"{clear}{unclear}{tied[0]} is clearly the lowest."
    return (
        f"{clear}{unclear}The intervals of {', '.join(tied)} overlap that of the lowest: "
        "this test set is too small to rank them."
    )


def _spend(calibrated: Calibrated, policy: Policy, data: Digits, full: Outcome) -> Results:
    """The policy run on the test images, beside the last exit's answer to all of them."""
    answers = [suffice.run(calibrated, policy, images) for images, _ in data.test.batches()]
    exits = torch.cat([answer.exit for answer in answers])
    log_probs = torch.cat([answer.prediction.log_probs for answer in answers])
    macs = torch.cat([answer.macs for answer in answers]).double()
    return {
        "asked": BUDGET,
        "expected_macs": policy.expected,
        "realised_macs": float(macs.mean()),
        "full_macs": calibrated.costs.cumulative[-1],
        "costs": asdict(calibrated.costs),
        "shares": (torch.bincount(exits, minlength=len(calibrated.exits)) / len(exits)).tolist(),
        "accuracy": float(metrics.accuracy(log_probs, data.test.labels)),
        "full_accuracy": float(metrics.accuracy(full.predictions[-1].log_probs, data.test.labels)),
    }


def _timing(calibrated: Calibrated, policy: Policy, data: Digits) -> Results:
    """Median milliseconds per 1,000 test images: the network alone, all exits calibrated, and the policy."""
    batches = [images for images, _ in data.test.batches()]
    ways: dict[str, Callable[[], object]] = {
        "network_ms": lambda: [calibrated.network(images) for images in batches],
        "full_ms": lambda: [calibrated(images) for images in batches],
        "run_ms": lambda: [suffice.run(calibrated, policy, images) for images in batches],
    }
    with torch.no_grad():
        times = interleaved(ways)
    return {name: 1000 * value / len(data.test.labels) for name, value in times.items()}


def _variation(network: ExitNetwork, data: Digits, seed: int, progress: Progress) -> tuple[VariationEstimator, Results]:
    """The estimator, learned from perturbed training images, and its table on the test images."""
    generator = torch.Generator().manual_seed(seed)
    images = data.train.images.repeat(COPIES, 1, 1, 1)
    unlabelled = digits.perturb(images, 1 / 3, generator=generator).split(256)
    fit = comparison.Fit(unlabelled, data.validation.batches(), suffice.MCDropout(passes=PASSES))
    table = comparison.compare(
        network,
        fit,
        data.test.images.split(100),
        truth_passes=TRUTH_PASSES,
        generator=generator,
        progress=progress,
    )
    results = {"truth_passes": TRUTH_PASSES, "truth": table.truth.tolist(), "rows": table.rows}
    return table.estimators["estimator"], results


def _save_and_reload(
    calibrated: Calibrated, policy: Policy, estimator: VariationEstimator, data: Digits, out: Path
) -> Results:
    """Save everything, read it back, and compare the answers on the test images."""
    saved = {"calibrated": calibrated, "policy": policy, "variation": estimator}
    for name, what in saved.items():
        suffice.save(what, out / name)
    again = {name: suffice.load(out / name, network=calibrated.network) for name in saved}
    before = suffice.run(calibrated, policy, data.test.images)
    after = suffice.run(again["calibrated"], again["policy"], data.test.images)
    differences = {
        "answers": float((before.probs - after.probs).abs().max()),
        "exits": int((before.exit != after.exit).sum()),
        "variation": float((estimator(data.test.images)[1] - again["variation"](data.test.images)[1]).abs().max()),
    }
    if any(differences.values()):
        raise RuntimeError(f"expected the same answers after reloading, got differences {differences}")
    return {"folders": [str(out / name) for name in saved], "differences": differences}


def _about(results: Results) -> str:
    data, versions = results["data"], results["versions"]
    return (
        f"Handwritten digits: {data['train']} images to train, {data['validation']} to calibrate, "
        f"{data['test']} to judge, a third of the last two shifted or noised. Seed {results['seed']}, "
        f"suffice {versions['suffice']}, torch {versions['torch']}."
    )


def _closing(results: Results) -> str:
    rows = {row["name"]: row["averaged"] for row in results["ablation"]}
    spent, times = results["budget"], results["timing"]
    estimates = {row["name"]: row["r2"] for row in results["variation"]["rows"]}
    fraction = spent["realised_macs"] / spent["full_macs"]
    return (
        f"Averaged over budgets the calibration error fell from {rows['vanilla']['ece']:.3f} to "
        f"{rows['all']['ece']:.3f} with everything on and to {rows['temperature']['ece']:.3f} with a temperature "
        f"per exit alone, at {rows['vanilla']['accuracy']:.1%}, {rows['all']['accuracy']:.1%} and "
        f"{rows['temperature']['accuracy']:.1%} top-1. At {fraction:.0%} of the multiply-adds the network was "
        f"right on {spent['accuracy']:.1%} of the test images, against {spent['full_accuracy']:.1%} in full, in "
        f"{times['run_ms'] / times['full_ms']:.0%} of the time. One pass explains {estimates['estimator']:.0%} of "
        f"the true dropout variation (R²); a hundred dropout passes explain "
        f"{estimates['dropout, T = 100']:.0%}, ten {max(estimates['dropout, T = 10'], 0):.0%}."
    )
