"""Tables of paper one in Markdown, from the results of `measurements`."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from suffice.evaluation import ABLATION
from suffice.reproduce import ledger
from suffice.reproduce.early_exit import measurements
from suffice.reproduce.ledger import Results
from suffice.reproduce.markdown import MarkdownTable, table

_SHOWN = ("accuracy", "top5", "nll", "brier", "ece", "ece_equal_mass", "auroc", "aurc", "eefp")
_FRONTIER = (15e6, 25e6, 35e6, 65e6)
"""Mean multiply-adds per example at which accuracy and calibration error are compared."""
_SPEED = 50e12
"""Assumed operations per second of a data-center GPU, a small part of its peak."""
_NAMES = {
    "accuracy": "top-1, %",
    "top5": "top-5, %",
    "nll": "NLL",
    "brier": "Brier",
    "ece": "ECE",
    "ece_equal_mass": "ECE, equal mass",
    "auroc": "AUROC",
    "aurc": "AURC",
    "eefp": "EEFP",
}


def averaged(results: Results) -> str:
    """Format the measures averaged over the 39 budgets, with networks of other losses uncalibrated."""
    vanilla = [f"{loss.title}, vanilla" for loss in measurements.ALTERNATIVE_LOSSES.values()]
    return _averaged(results, [*_main_rows(results), *_measured(results, vanilla)])


def variants(results: Results) -> str:
    """Format the measures of other priors, tunings, links and ensembles beside those of the default."""
    return _averaged(results, ["all", *measurements.VARIANTS])


def losses(results: Results) -> str:
    """Format means over the budgets with intervals, for all losses that a network was trained with."""
    others = [name for loss in measurements.ALTERNATIVE_LOSSES.values() for name in loss.choices]
    runs = ledger.measured(results)
    header = ["top-1, % [95 %]", "NLL [95 %]", "ECE [95 %]", "AURC", "top-1 of each exit, %"]
    return table(
        ["mean over 39 budgets", *header],
        [
            [
                name,
                *(_with_interval(measure, runs[name]) for measure in ("accuracy", "nll", "ece")),
                _cell("aurc", runs[name]["averaged"]["aurc"]),
                " / ".join(f"{100 * at['accuracy']:.1f}" for at in runs[name]["exits"]),
            ]
            for name in _measured(results, [*measurements.COMPARED, *others])
        ],
    )


def _main_rows(results: Results) -> list[str]:
    """Return the names of the ablation's rows and of the measured rows of `BEYOND`."""
    return [*ABLATION, *_measured(results, measurements.BEYOND)]


def _measured(results: Results, names: Iterable[str]) -> list[str]:
    return [name for name in names if name in results["runs"]]


def _averaged(results: Results, names: Iterable[str]) -> str:
    runs = ledger.measured(results)
    rows = [[name, *(_cell(measure, runs[name]["averaged"][measure]) for measure in _SHOWN)] for name in names]
    return table(["mean over 39 budgets", *(_NAMES[measure] for measure in _SHOWN)], rows)


def intervals(results: Results) -> str:
    """Format the bootstrap intervals of the means over the budgets, resampling the test images."""
    runs = ledger.measured(results)
    rows = [
        [name, *(_interval(measure, runs[name]["intervals"][measure]) for measure in ("accuracy", "nll", "ece"))]
        for name in _main_rows(results)
    ]
    return table(["95 % interval", "top-1, %", "NLL", "ECE"], rows)


def added(results: Results) -> str:
    """Format the difference that each part of the method makes, with paired bootstrap intervals."""
    rows = [
        [part, *(_difference(measure, differences[measure]) for measure in ("accuracy", "nll", "ece"))]
        for part, differences in ledger.measured(results)["added"].items()
    ]
    return table(["adding, mean over 39 budgets [95 %]", "top-1, points", "NLL", "ECE"], rows)


def exits(results: Results) -> str:
    """Format top-1, NLL and ECE at each exit."""
    runs = ledger.measured(results)
    num_exits = len(runs["vanilla"]["exits"])
    rows = [[name, *(_exit(at) for at in runs[name]["exits"])] for name in _main_rows(results)]
    return table(["top-1, % / NLL / ECE", *(f"exit {k}" for k in range(num_exits))], rows)


def budgets(results: Results, every: int = 6) -> str:
    """Format every n-th budget: requested and spent multiply-adds, top-1 and ECE, of the rows "vanilla" and "all"."""
    runs = ledger.measured(results)
    curves = (runs[name]["curve"][every // 2 :: every] for name in ("vanilla", "all"))
    rows = [
        [
            *(f"{point[name] / 1e6:.1f}" for point in points for name in ("requested", "macs")),
            *(f"{100 * point['accuracy']:.2f} / {point['ece']:.3f}" for point in points),
        ]
        for points in zip(*curves, strict=True)
    ]
    header = ["vanilla: requested, M", "spent, M", "all: requested, M", "spent, M", "vanilla: top-1 / ECE", "all"]
    return table(header, rows)


def frontier(results: Results) -> str:
    """Format top-1 and ECE of every row at fixed costs, interpolated between its budgets."""
    curves = {name: run["curve"] for name, run in ledger.measured(results).items() if "curve" in run}
    largest = curves["vanilla"][-1]["macs"]
    costs = [cost for cost in _FRONTIER if cost < largest]
    rows = [[name, *(_interpolated(curve, cost) for cost in costs)] for name, curve in curves.items()]
    return table(["top-1, % / ECE at", *(f"{cost / 1e6:.0f} M multiply-adds" for cost in costs)], rows)


def scores(results: Results) -> str:
    """Format the comparison of scores as exit criteria."""
    rows = [
        [
            row["score"],
            f"{100 * row['accuracy']:.2f}",
            f"{row['eefp']:.4f}",
            f"{row['aurc']:.4f}",
            f"{row['macs'] / 1e6:.2f}",
        ]
        for row in ledger.measured(results)["scores"]["rows"]
    ]
    return table(["score", "top-1, %", "EEFP", "AURC", "multiply-adds, M"], rows)


def ood(results: Results) -> str:
    """Format out-of-distribution detection by each score; a sentence if no such data set was in the store."""
    runs = ledger.measured(results)
    prefix = measurements.OOD_PREFIX
    by_dataset = {key.removeprefix(prefix): run for key, run in runs.items() if key.startswith(prefix)}
    if not by_dataset:
        return "No out-of-distribution data set was in the store.\n"
    scores = list(next(iter(by_dataset.values())))
    rows = [[score, *(_detection(run[score]) for run in by_dataset.values())] for score in scores]
    return table(["AUROC / FPR95, %", *by_dataset], rows)


def corruptions(results: Results) -> str:
    """Format cost, top-1 and ECE of a policy on corrupted streams."""
    by_corruption = ledger.measured(results)["corruptions"]
    rows = [[name, *(_stream(run[way]) for way in ("frozen", "running"))] for name, run in by_corruption.items()]
    return table(["cost, % of expected / top-1, % / ECE", "frozen thresholds", "running quantiles"], rows)


def full_run(results: Results) -> str:
    """Format the cost of the paper's trainings: a training step is three passes, a multiply-add two operations."""
    training = ledger.measured(results)["full run"]
    passes = training["images"] * training["epochs"]
    rows = [
        [
            f"MSDNet {size}",
            f"{macs / 1e9:.2f}",
            f"{6 * macs * passes / 1e18:.2f}",
            f"{6 * macs * passes / _SPEED / 3600:.0f}",
        ]
        for size, macs in training["macs"].items()
    ]
    header = ["multiply-adds per image, G", "operations of the training, 10¹⁸", "GPU hours at 50 TFLOP/s"]
    return table([f"{training['images']:,} images, {training['epochs']} epochs", *header], rows)


def _interpolated(curve: Sequence[Mapping[str, float]], cost: float) -> str:
    macs = [point["macs"] for point in curve]
    accuracy, ece = (np.interp(cost, macs, [point[name] for point in curve]) for name in ("accuracy", "ece"))
    return f"{100 * accuracy:.2f} / {ece:.3f}"


def _cell(measure: str, value: float) -> str:
    return f"{100 * value:.2f}" if measure in ("accuracy", "top5") else f"{value:.4f}"


def _with_interval(measure: str, run: Results) -> str:
    return f"{_cell(measure, run['averaged'][measure])} {_interval(measure, run['intervals'][measure])}"


def _interval(measure: str, ends: tuple[float, float]) -> str:
    return f"[{_cell(measure, ends[0])}, {_cell(measure, ends[1])}]"


def _difference(measure: str, difference: Mapping[str, Any]) -> str:
    scale, digits = (100, 2) if measure == "accuracy" else (1, 4)
    mean, low, high = (f"{scale * value:+.{digits}f}" for value in (difference["mean"], *difference["interval"]))
    return f"{mean} [{low}, {high}]"


def _exit(at: Mapping[str, float]) -> str:
    return f"{100 * at['accuracy']:.2f} / {at['nll']:.3f} / {at['ece']:.3f}"


def _detection(run: Mapping[str, float]) -> str:
    return f"{100 * run['auroc']:.1f} / {100 * run['fpr95']:.1f}"


def _stream(run: Mapping[str, float]) -> str:
    return f"{100 * run['cost']:.1f} % / {100 * run['accuracy']:.2f} / {run['ece']:.3f}"


TABLES: dict[str, MarkdownTable] = {
    function.__name__: function for function in (averaged, intervals, added, exits, losses, budgets, variants, scores)
}
PHOTOGRAPH_TABLES: dict[str, MarkdownTable] = {**TABLES, "full_run": full_run}
SMALL_IMAGE_TABLES: dict[str, MarkdownTable] = {**TABLES, "frontier": frontier, "ood": ood, "corruptions": corruptions}
