"""Paper one's tables in Markdown, from what `dynamic` measured."""

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
"""Multiply-adds."""
_SPEED = 50e12
"""Operations a second that a data-centre GPU is taken to do: a small part of what it could."""
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
    """Every row of the ablation, what is beyond it and networks trained with other losses, over the 39 budgets."""
    vanilla = [f"{other.title}, vanilla" for other in measurements.OTHERS.values()]
    return _averaged(results, [*_shown(results), *_known(results, vanilla)])


def variants(results: Results) -> str:
    """Other priors, tunings, links and ensembles beside the default."""
    return _averaged(results, ["all", *measurements.VARIANTS])


def losses(results: Results) -> str:
    """Means over the budgets with intervals; networks trained with other losses beside, where there are any."""
    others = [name for other in measurements.OTHERS.values() for name in other.choices]
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
            for name in _known(results, [*measurements.COMPARED, *others])
        ],
    )


def _shown(results: Results) -> list[str]:
    """Rows of the ablation, and of what is beyond it where that was measured."""
    return [*ABLATION, *_known(results, measurements.BEYOND)]


def _known(results: Results, names: Iterable[str]) -> list[str]:
    return [name for name in names if name in results["runs"]]


def _averaged(results: Results, names: Iterable[str]) -> str:
    runs = ledger.measured(results)
    rows = [[name, *(_cell(measure, runs[name]["averaged"][measure]) for measure in _SHOWN)] for name in names]
    return table(["mean over 39 budgets", *(_NAMES[measure] for measure in _SHOWN)], rows)


def intervals(results: Results) -> str:
    """Bootstrap intervals of the test images, of the means over the budgets."""
    runs = ledger.measured(results)
    rows = [
        [name, *(_interval(measure, runs[name]["intervals"][measure]) for measure in ("accuracy", "nll", "ece"))]
        for name in _shown(results)
    ]
    return table(["95 % interval", "top-1, %", "NLL", "ECE"], rows)


def added(results: Results) -> str:
    """What each part adds, with paired bootstrap intervals of the test images."""
    rows = [
        [what, *(_difference(measure, found[measure]) for measure in ("accuracy", "nll", "ece"))]
        for what, found in ledger.measured(results)["added"].items()
    ]
    return table(["adding, mean over 39 budgets [95 %]", "top-1, points", "NLL", "ECE"], rows)


def exits(results: Results) -> str:
    """Top-1, NLL and ECE at each exit."""
    runs = ledger.measured(results)
    count = len(runs["vanilla"]["exits"])
    rows = [[name, *(_exit(at) for at in runs[name]["exits"])] for name in _shown(results)]
    return table(["top-1, % / NLL / ECE", *(f"exit {k}" for k in range(count))], rows)


def budgets(results: Results, every: int = 6) -> str:
    """Some of the budgets: multiply-adds requested and spent, and what they bought, vanilla and with everything."""
    runs = ledger.measured(results)
    vanilla, ours = (runs[name]["curve"][every // 2 :: every] for name in ("vanilla", "all"))
    rows = [
        [
            *(f"{value / 1e6:.1f}" for value in (theirs["requested"], theirs["macs"], own["requested"], own["macs"])),
            *(f"{100 * at['accuracy']:.2f} / {at['ece']:.3f}" for at in (theirs, own)),
        ]
        for theirs, own in zip(vanilla, ours, strict=True)
    ]
    header = ["vanilla: requested, M", "spent, M", "all: requested, M", "spent, M", "vanilla: top-1 / ECE", "all"]
    return table(header, rows)


def frontier(results: Results) -> str:
    """Accuracy and calibration error together at the costs where others are compared, between two budgets' own."""
    curves = {name: run["curve"] for name, run in ledger.measured(results).items() if "curve" in run}
    greatest = curves["vanilla"][-1]["macs"]
    costs = [cost for cost in _FRONTIER if cost < greatest]
    rows = [[name, *(_between(curve, cost) for cost in costs)] for name, curve in curves.items()]
    return table(["top-1, % / ECE at", *(f"{cost / 1e6:.0f} M multiply-adds" for cost in costs)], rows)


def scores(results: Results) -> str:
    """Which uncertainty decides where an example leaves."""
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


def strangers(results: Results) -> str:
    """Which score tells other data apart; a sentence where there were no other data."""
    runs = ledger.measured(results)
    known = measurements.STRANGERS
    measured = {name.removeprefix(known): run for name, run in runs.items() if name.startswith(known)}
    if not measured:
        return "None of the data sets to be told apart was in the store.\n"
    names = list(next(iter(measured.values())))
    rows = [[name, *(_apart(found[name]) for found in measured.values())] for name in names]
    return table(["AUROC / FPR95, %", *measured], rows)


def corruptions(results: Results) -> str:
    """What a policy costs and gets on corrupted streams."""
    measured = ledger.measured(results)["corruptions"]
    rows = [[name, *(_streamed(found[way]) for way in ("frozen", "running"))] for name, found in measured.items()]
    return table(["cost of the expected / top-1, % / ECE", "frozen thresholds", "running quantiles"], rows)


def full_run(results: Results) -> str:
    """What the paper's trainings would take; three times the operations of a pass, two to a multiply-add."""
    needed = ledger.measured(results)["full run"]
    seen = needed["images"] * needed["epochs"]
    rows = [
        [
            f"MSDNet {size}",
            f"{macs / 1e9:.2f}",
            f"{6 * macs * seen / 1e18:.2f}",
            f"{6 * macs * seen / _SPEED / 3600:.0f}",
        ]
        for size, macs in needed["macs"].items()
    ]
    header = ["multiply-adds of an image, G", "operations of the training, 10¹⁸", "GPU hours at 50 TFLOP/s"]
    return table([f"{needed['images']:,} images, {needed['epochs']} epochs", *header], rows)


def _between(curve: Sequence[Mapping[str, float]], cost: float) -> str:
    accuracy, ece = (
        np.interp(cost, [at["macs"] for at in curve], [at[name] for at in curve]) for name in ("accuracy", "ece")
    )
    return f"{100 * accuracy:.2f} / {ece:.3f}"


def _cell(measure: str, value: float) -> str:
    return f"{100 * value:.2f}" if measure in ("accuracy", "top5") else f"{value:.4f}"


def _with_interval(measure: str, run: Results) -> str:
    return f"{_cell(measure, run['averaged'][measure])} {_interval(measure, run['intervals'][measure])}"


def _interval(measure: str, ends: tuple[float, float]) -> str:
    return f"[{_cell(measure, ends[0])}, {_cell(measure, ends[1])}]"


def _difference(measure: str, found: Mapping[str, Any]) -> str:
    scale, digits = (100, 2) if measure == "accuracy" else (1, 4)
    mean, low, high = (f"{scale * value:+.{digits}f}" for value in (found["mean"], *found["interval"]))
    return f"{mean} [{low}, {high}]"


def _exit(at: Mapping[str, float]) -> str:
    return f"{100 * at['accuracy']:.2f} / {at['nll']:.3f} / {at['ece']:.3f}"


def _apart(found: Mapping[str, float]) -> str:
    return f"{100 * found['auroc']:.1f} / {100 * found['fpr95']:.1f}"


def _streamed(found: Mapping[str, float]) -> str:
    return f"{100 * found['cost']:.1f} % / {100 * found['accuracy']:.2f} / {found['ece']:.3f}"


TABLES: dict[str, MarkdownTable] = {
    function.__name__: function for function in (averaged, intervals, added, exits, losses, budgets, variants, scores)
}
OF_PHOTOGRAPHS: dict[str, MarkdownTable] = {**TABLES, "full_run": full_run}
OF_SMALL_IMAGES: dict[str, MarkdownTable] = {
    **TABLES,
    "frontier": frontier,
    "strangers": strangers,
    "corruptions": corruptions,
}
"""That other data sets and corruptions are made to fit."""
