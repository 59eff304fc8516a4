"""Search for uses in which a posterior pays: each case with and without it, over several seeds, in one table."""

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from suffice.reproduce.early_exit import overconfident_networks
from suffice.reproduce.ledger import Ledger, Results
from suffice.reproduce.markdown import MarkdownTable, table
from suffice.reproduce.posterior import acquisition, few_examples, moved, regressions, unfamiliar
from suffice.reproduce.posterior.comparison import RATE, STEPS, Comparison
from suffice.utils.progress import ProgressCallback

MANY, FEW = tuple(range(10)), tuple(range(5))
"""Seeds of cases that take a second, and of those that take longer."""


@dataclass(frozen=True)
class Case:
    """Use of a posterior on one data set.

    Attributes:
        title: Title in the table.
        seeds: Seeds of the data, the weights and the samples.
        compare: Function from a seed to the comparisons, the same ones for every seed.
    """

    title: str
    seeds: tuple[int, ...]
    compare: Callable[[int], list[Comparison]]


CASES = (
    *(
        Case(f"digits, {n} images per class", MANY, partial(few_examples.of_digits, per_class=n))
        for n in (2, 5, 20, 80)
    ),
    *(
        Case(f"breast cancer, {n} patients per class", MANY, partial(few_examples.of_tumors, per_class=n))
        for n in (5, 20)
    ),
    *(
        Case(f"four exits, CIFAR-100, {n} images per class", FEW, partial(few_examples.of_exits, per_class=n))
        for n in (1, 3, 20)
    ),
    *(
        Case(f"regression, diabetes, {n} patients", MANY, partial(regressions.of_diabetes, examples=n))
        for n in (15, 50, 200)
    ),
    Case("out-of-distribution, digits 7 to 9", MANY, unfamiliar.of_digits),
    Case("out-of-distribution, 50 classes of CIFAR-100", FEW, unfamiliar.of_exits),
    Case("active learning, digits", MANY, acquisition.of_labels),
    Case("active learning, diabetes", MANY, regressions.of_acquisition),
    Case("bandit, digits", MANY, acquisition.of_rewards),
    Case("digits like the training data", MANY, partial(moved.of_digits, share=0.0)),
    Case("digits, all shifted or noisy", MANY, partial(moved.of_digits, share=1.0)),
    Case("four exits, CIFAR-100 with noise", FEW, moved.of_exits),
)
"""Cases of the search."""

KEYS = [case.title for case in CASES]
"""Keys of the runs."""

RISING = ("AUROC", "accuracy", "mean accuracy", "mean reward")
"""Measures that are better if they are higher; the others are better if they are lower."""

_SHOWN = 5e-4
"""Smallest difference that the digits of the table show."""


def run(out: Path, progress: ProgressCallback) -> Results:
    """Compare all cases, and write `out/posterior.json`.

    Raises:
        FileNotFoundError: If CIFAR-100 is not in the store.
    """
    split = overconfident_networks.load(0).split
    settings = {"steps": STEPS, "rate": RATE, "seeds": {case.title: case.seeds for case in CASES}}
    book = Ledger(
        out / "posterior.json", "suffice reproduce posterior", settings, {overconfident_networks.SOURCE: split}
    )
    for done, case in enumerate(CASES, start=1):
        book.run(case.title, partial(measure, case))
        progress("cases", done, len(CASES))
    return book.results


def measure(case: Case) -> dict[str, Any]:
    """Compare a case over its seeds; each comparison holds a value for each seed."""
    seeds = [case.compare(seed) for seed in case.seeds]
    rows = []
    for same in zip(*seeds, strict=True):
        row = {**asdict(same[0]), "without": [each.without for each in same], "having": [each.having for each in same]}
        rows.append(row)
    return {"rows": rows}


def interval(values: list[float]) -> tuple[float, float]:
    """Compute the 95 % interval of the mean of independent values, by Student's t."""
    from scipy.stats import ttest_1samp

    low, high = ttest_1samp(values, 0).confidence_interval(0.95)
    return float(low), float(high)


def gain(row: dict[str, Any]) -> list[float]:
    """Return for each seed the difference that the posterior makes, above 0 if it is better."""
    sign = 1 if row["measure"] in RISING else -1
    return [sign * (having - without) for without, having in zip(row["without"], row["having"], strict=True)]


def worth(results: Results) -> str:
    """Format what the posterior is worth in each case by the first measure, with intervals over seeds."""
    return _table(results, first=True)


def other_measures(results: Results) -> str:
    """Format what the posterior is worth in each case by the other measures."""
    return _table(results, first=False)


def _table(results: Results, *, first: bool) -> str:
    lines = []
    for case in CASES:
        shown = set()
        for row in results["runs"][case.title]["measured"]["rows"]:
            compared = f"{case.title}: {row['posterior']}, instead of {row['instead_of']}"
            if (compared not in shown) == first:
                lines.append([compared, row["measure"], *_cells(row)])
            shown.add(compared)
    return table(["case", "measure", "without", "with", "gain [95 %]", "better in", "verdict"], lines)


def _cells(row: dict[str, Any]) -> list[str]:
    gains = gain(row)
    low, high = interval(gains)
    verdict = "better" if low > 0 else "worse" if high < 0 else "open"
    if max(abs(low), abs(high)) < _SHOWN:
        verdict = "equal"
    return [
        *(f"{statistics.mean(row[name]):.3f}" for name in ("without", "having")),
        f"{statistics.mean(gains):+.3f} [{low:+.3f}, {high:+.3f}]",
        f"{sum(each > 0 for each in gains)} of {len(gains)}",
        verdict,
    ]


TABLES: dict[str, MarkdownTable] = {"worth": worth, "other_measures": other_measures}
