"""Comparison of the default of `calibrate` with every single row, on networks of many kinds (`default_subjects`).

The measure is the NLL on test data that chose nothing, averaged over the exits. The default is compared with each row
by paired differences, and so with the row that is best on the test data, which is the strictest comparison.
"""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from suffice import evaluation
from suffice.evaluation.ablation import AblationStudy
from suffice.reproduce.early_exit import overconfidence
from suffice.reproduce.early_exit.default_subjects import SEED, SUBJECTS, DefaultSubject
from suffice.reproduce.ledger import Ledger, Results
from suffice.reproduce.markdown import MarkdownTable, table
from suffice.utils.progress import ProgressCallback

DEFAULT = overconfidence.DEFAULT
KEYS = [subject.title for subject in SUBJECTS]
"""Keys of the runs."""
_SHOWN = 5e-5
"""Smallest difference that the digits of the table show."""


def run(out: Path, progress: ProgressCallback) -> Results:
    """Calibrate every network in every way, and write `out/default.json`.

    Raises:
        FileNotFoundError: If a data set is not in the store.
        ImportError: If the packages of MiniLM or EfficientNet-Lite0 are not installed.
    """
    book = Ledger(out / "default.json", "suffice reproduce default", {"seed": SEED}, {})
    for done, subject in enumerate(SUBJECTS, start=1):
        book.run(subject.title, partial(measure, subject, out, progress))
        progress("networks", done, len(SUBJECTS))
    return book.results


def measure(subject: DefaultSubject, out: Path, progress: ProgressCallback) -> dict[str, Any]:
    """Measure all rows of one network.

    Returns:
        "test" and "exits": numbers of examples and exits. "posterior": exits at which the default predicts with its
        posterior. "rows": for each row its NLL, and "gain", the NLL of the row less that of the default, with the 95 %
        interval of the mean of paired differences, by Student's t.
    """
    study = subject.make(out, progress)
    losses = {name: _losses(subject, study, name) for name in _row_names(subject)}
    calibrated, _ = study.calibrated(**_choices(subject, DEFAULT))
    rows = []
    for name, values in losses.items():
        gains = values - losses[DEFAULT]
        rows.append(
            {"name": name, "nll": float(values.mean()), "gain": float(gains.mean()), "interval": _interval(gains)}
        )
    return {
        "test": len(study.test.labels),
        "exits": len(calibrated.exits),
        "posterior": sum(exit_.uses_posterior for exit_ in calibrated.exits),
        "rows": rows,
    }


def _row_names(subject: DefaultSubject) -> list[str]:
    """Return the names of the rows that apply."""
    of_classes = (overconfidence.PAPER, overconfidence.PRODUCT, overconfidence.BOTH)
    return [name for name in overconfidence.ROWS if not (subject.is_regression and name in of_classes)]


def _choices(subject: DefaultSubject, name: str) -> dict[str, Any]:
    return {**overconfidence.ROWS[name], "likelihood": subject.likelihood}


def _losses(subject: DefaultSubject, study: AblationStudy, name: str) -> Tensor:
    """Return the NLL of each test example, (N,) float64, averaged over the exits."""
    calibrated, _ = study.calibrated(**_choices(subject, name))
    outcome = evaluation.predict(calibrated, study.test)
    return torch.stack([_nll(prediction, outcome.labels) for prediction in outcome.predictions]).mean(dim=0)


def _nll(prediction: Any, labels: Tensor) -> Tensor:
    """Return the NLL in nats of each example, (N,) float64."""
    if prediction.kind == "regression":
        values: Tensor = -prediction.log_density(labels).double()
    else:
        values = -prediction.log_probs.double().gather(1, labels[:, None])[:, 0]
    return values


def _interval(values: Tensor) -> tuple[float, float]:
    """Return the 95 % interval of the mean of values (N,); a point if they are equal."""
    from scipy.stats import ttest_1samp

    if bool((values == values[0]).all()):
        return float(values[0]), float(values[0])
    low, high = ttest_1samp(values.numpy(), 0).confidence_interval(0.95)
    return float(low), float(high)


def against_best(results: Results) -> str:
    """Format for each network the default, the best other row on the test data, and what the default gains on it."""
    lines = []
    for subject in SUBJECTS:
        measured = results["runs"][subject.title]["measured"]
        rows = {row["name"]: row for row in measured["rows"]}
        own = rows.pop(DEFAULT)
        best = min(rows.values(), key=lambda row: row["nll"])
        low, high = best["interval"]
        posterior = f"{measured['posterior']} of {measured['exits']}"
        gain = f"{best['gain']:+.4f} [{low:+.4f}, {high:+.4f}]"
        clear = abs(best["gain"]) >= _SHOWN and (low > 0 or high < 0)
        verdict = ("better" if low > 0 else "worse") if clear else "no difference"
        lines.append([subject.title, posterior, f"{own['nll']:.4f}", best["name"], f"{best['nll']:.4f}", gain, verdict])
    header = ["network", "posterior at exits", "NLL, default", "best other row", "its NLL", "gain of the default", ""]
    return table(header, lines)


def all_rows(results: Results) -> str:
    """Format the NLL of every row on every network."""
    lines = []
    for subject in SUBJECTS:
        rows = {row["name"]: row["nll"] for row in results["runs"][subject.title]["measured"]["rows"]}
        lines.append([subject.title, *(f"{rows[name]:.4f}" if name in rows else "–" for name in overconfidence.ROWS)])
    return table(["NLL, mean over the exits", *overconfidence.ROWS], lines)


TABLES: dict[str, MarkdownTable] = {"against_best": against_best, "all_rows": all_rows}
