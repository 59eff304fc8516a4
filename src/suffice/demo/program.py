"""The program of the demo: calibrate, run at half the cost, estimate the dropout variation, save.

Every step calls the public API and returns plain numbers, which `suffice demo` prints and `suffice.report` plots.
"""

import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import suffice
from suffice import cost, evaluation, metrics
from suffice._version import __version__
from suffice.budget.policy import Policy
from suffice.calibration.calibrated import Calibrated
from suffice.demo.subjects import Subject
from suffice.evaluation import ABLATION, Outcome, cached
from suffice.evaluation.ablation import AblationStudy, row
from suffice.runs import folder, networks
from suffice.storage import artifact
from suffice.utils.progress import ProgressCallback
from suffice.utils.timing import interleaved
from suffice.variation import comparison
from suffice.variation.estimator import VariationEstimator

Results = dict[str, Any]

BUDGET = 0.5
TRUTH_PASSES = 1000
ROWS: dict[str, dict[str, Any]] = {**ABLATION, "default": {}}
"""Rows of the table, as arguments of `calibrate`: each part of the paper, and what is chosen without arguments."""
ARTIFACTS = (folder.NETWORK, folder.CALIBRATED, folder.POLICY, folder.VARIATION)
"""Names of the artifact folders, which make the output folder one of a run."""


def run(subject: Subject, seed: int, out: Path, progress: ProgressCallback) -> Results:
    """Run all steps, and write the artifacts under `out`.

    The results are reproducible for the same seed, machine and versions, except "timing" and the sentence in "closing"
    that quotes it.

    Raises:
        FileExistsError: If the path of an artifact is occupied by something else.
    """
    for name in ARTIFACTS:
        artifact.check(out / name)
    rows = _ablation(subject, seed, progress)
    validation, generator = subject.validation.batches(), torch.Generator().manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the last row has the same settings, and its notes hold these warnings
        calibrated = suffice.calibrate(
            subject.network, subject.train.batches(shuffle=False), validation, generator=generator
        )
    policy = suffice.allocate(calibrated, validation, BUDGET)
    full = evaluation.predict(calibrated, subject.test.batches())
    images = [x for x, _ in subject.test.batches()]
    estimator, estimates = _variation(subject, seed, progress)
    results: Results = {
        "seed": seed,
        "versions": {"suffice": __version__, "torch": torch.__version__},
        "data": {name: len(getattr(subject, name)) for name in ("train", "validation", "test")},
        "ablation": rows,
        "notes": [f"{row['name']}: {note}" for row in rows for note in row["notes"]],
        "overlap": _overlap(rows),
        "budget": _spend(calibrated, policy, images, full),
        "timing": _timing(calibrated, policy, images),
        "variation": estimates,
        "artifact": _save_and_reload(subject, calibrated, policy, estimator, out),
    }
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    about = f"{subject.about}. Seed {seed}, {versions}."
    return {**results, "about": about, "closing": _closing(results)}


def _ablation(subject: Subject, seed: int, progress: ProgressCallback) -> list[Results]:
    """Measure every row of the ablation: fitted on training, tuned on validation, evaluated on test images."""
    network, splits = subject.network, (subject.train, subject.validation, subject.test)
    train, validation, test = (cached.compute(network, split.batches(shuffle=False)) for split in splits)
    example, _ = next(iter(subject.test.batches(1)))
    classifiers, costs = cached.network_on_features(network), cost.count(network, example)
    study = AblationStudy(classifiers, costs, train, validation, test, seed)
    rows = []
    for done, (name, choices) in enumerate(ROWS.items(), start=1):
        rows.append({"name": name, **row(study, **choices)})
        progress("calibrate", done, len(ROWS))
    return rows


def _overlap(rows: list[Results]) -> str:
    """Describe in words which intervals of the calibration error overlap."""
    intervals = {row["name"]: row["intervals"]["ece"] for row in rows}
    vanilla_low, _ = intervals["vanilla"]
    better = [name for name, (_, high) in intervals.items() if high < vanilla_low]
    others = [name for name in intervals if name not in better and name != "vanilla"]
    _, lowest_high = min(intervals.values(), key=lambda interval: interval[1])
    tied = [name for name, (low, _) in intervals.items() if low <= lowest_high]
    clear = f"Clearly below vanilla: {', '.join(better)}. " if better else "No row is clearly below vanilla. "
    unclear = f"Not clearly below it: {', '.join(others)}. " if others else ""
    if len(tied) == 1:
        return f"{clear}{unclear}{tied[0]} is clearly the lowest."
    return (
        f"{clear}{unclear}The intervals of {', '.join(tied)} overlap that of the lowest: "
        "this test set is too small to rank them."
    )


def _spend(calibrated: Calibrated, policy: Policy, images: list[Tensor], full: Outcome) -> Results:
    """Run the policy on the test images, and compare it with the last exit on all of them."""
    answers = [suffice.run(calibrated, policy, batch) for batch in images]
    exit_index = torch.cat([answer.exit for answer in answers])
    log_probs = torch.cat([answer.prediction.log_probs for answer in answers])
    macs = torch.cat([answer.macs for answer in answers]).double()
    return {
        "asked": BUDGET,
        "expected_macs": policy.expected,
        "realised_macs": float(macs.mean()),
        "full_macs": calibrated.costs.cumulative[-1],
        "costs": asdict(calibrated.costs),
        "shares": (torch.bincount(exit_index, minlength=len(calibrated.exits)) / len(exit_index)).tolist(),
        "accuracy": float(metrics.accuracy(log_probs, full.labels)),
        "full_accuracy": float(metrics.accuracy(full.predictions[-1].log_probs, full.labels)),
    }


def _timing(calibrated: Calibrated, policy: Policy, images: list[Tensor]) -> Results:
    """Measure median milliseconds per 1,000 test images of the network, all calibrated exits, and the policy."""
    ways: dict[str, Callable[[], object]] = {
        "network_ms": lambda: [calibrated.network(batch) for batch in images],
        "full_ms": lambda: [calibrated(batch) for batch in images],
        "run_ms": lambda: [suffice.run(calibrated, policy, batch) for batch in images],
    }
    count = sum(map(len, images))
    with torch.no_grad():
        times = interleaved(ways)
    return {name: 1000 * value / count for name, value in times.items()}


def _variation(subject: Subject, seed: int, progress: ProgressCallback) -> tuple[VariationEstimator, Results]:
    """Fit the variation estimator to unlabeled images, and compare estimates on test images."""
    estimators: dict[str, Results] = {"prediction only": {"layers": []}, "estimator": {"layers": subject.layers}}
    validation = subject.validation.batches()
    fit = comparison.FitSpec(subject.unlabeled, validation, subject.teacher, estimators=estimators)
    table = comparison.compare(
        subject.network,
        fit,
        subject.repeated,
        truth_passes=TRUTH_PASSES,
        generator=torch.Generator().manual_seed(seed),
        progress=progress,
    )
    results = {"truth_passes": TRUTH_PASSES, "truth": table.truth.tolist(), "rows": table.rows}
    return table.estimators["estimator"], results


def _save_and_reload(
    subject: Subject, calibrated: Calibrated, policy: Policy, estimator: VariationEstimator, out: Path
) -> Results:
    """Save and reload every artifact, and compare the outputs for a batch of test images."""
    networks.save(subject.network, subject.builder, out / folder.NETWORK)
    artifacts = {folder.CALIBRATED: calibrated, folder.POLICY: policy, folder.VARIATION: estimator}
    for name, value in artifacts.items():
        suffice.save(value, out / name)
    network = networks.load(out / folder.NETWORK)
    reloaded = {name: suffice.load(out / name, network=network) for name in artifacts}
    batch, _ = next(iter(subject.test.batches()))
    before = suffice.run(calibrated, policy, batch)
    after = suffice.run(reloaded["calibrated"], reloaded["policy"], batch)
    differences = {
        "answers": float((before.probs - after.probs).abs().max()),
        "exits": int((before.exit != after.exit).sum()),
        "variation": float((estimator(batch)[1] - reloaded["variation"](batch)[1]).abs().max()),
    }
    if any(differences.values()):
        raise RuntimeError(f"expected the same answers after reloading, got differences {differences}")
    return {"folders": [str(out / name) for name in ARTIFACTS], "differences": differences}


def _closing(results: Results) -> str:
    """Summarize the results in a paragraph."""
    rows = {row["name"]: row["averaged"] for row in results["ablation"]}
    spent, times = results["budget"], results["timing"]
    estimates = {row["name"]: row["r2"] for row in results["variation"]["rows"]}
    fraction = spent["realised_macs"] / spent["full_macs"]
    return (
        f"Averaged over budgets, the calibration error was {rows['vanilla']['ece']:.3f} without calibration, "
        f"{rows['default']['ece']:.3f} with it, and {rows['temperature']['ece']:.3f} with a temperature per exit "
        f"alone; top-1 was {rows['vanilla']['accuracy']:.1%}, {rows['default']['accuracy']:.1%} and "
        f"{rows['temperature']['accuracy']:.1%}. With {fraction:.0%} of the multiply-adds, top-1 on the test images "
        f"was {spent['accuracy']:.1%}, compared with {spent['full_accuracy']:.1%} for the full network, in "
        f"{times['run_ms'] / times['network_ms']:.0%} of the uncalibrated network's time. One forward pass explains "
        f"{estimates['estimator']:.0%} of the dropout variation (R²); a hundred dropout passes explain "
        f"{estimates['dropout, T = 100']:.0%}, ten {max(estimates['dropout, T = 10'], 0):.0%}."
    )
