"""Draw the figures of docs/ from the results in this folder.

    pip install 'suffice[figures]'
    python experiments/figures.py

writes `docs/overconfidence.svg`. The file holds a digest of the results that it was drawn from, which a test compares.
"""

import hashlib
import io
import statistics
from pathlib import Path
from typing import Any

from suffice.reproduce import ledger
from suffice.reproduce.early_exit import overconfidence
from suffice.reproduce.ledger import Results
from suffice.storage import files

RESULTS = Path(__file__).parent
FIGURE = RESULTS.parent / "docs" / "overconfidence.svg"
MARK = b"<?xml"
"""Beginning of a figure."""

PARTS = {
    "Laplace": ("#0072B2", "o"),
    "the paper's method": ("#E69F00", "s"),
    "average of the exits": ("#CC79A7", "^"),
    "product, tuned weights": ("#009E73", "D"),
    "Laplace, to the product": ("#D55E00", "v"),
}
"""Parts that are shown, with colors that can be told apart (Okabe and Ito 2008) and markers."""

Points = dict[str, list[tuple[float, float, float, float]]]
"""For each part: mean, and lower and upper end of the interval, by a place on the horizontal axis."""


def digest(results: Results) -> str:
    """Return a digest of the numbers that the figure shows."""
    return hashlib.sha256(repr([places(results, axis) for axis in ("ece", "per feature")]).encode()).hexdigest()


def places(results: Results, axis: str) -> Points:
    """Return the points of each part: the difference of the NLL to a temperature, over the seeds of a network.

    Args:
        results: Results of the experiment.
        axis: "ece", the calibration error of the uncalibrated network, or "per feature", its training examples for
            each feature of an exit.
    """
    found: Points = {part: [] for part in PARTS}
    for network in overconfidence.measured_networks(results):
        runs = [_measured(results, name) for name in network.names]
        place = overconfidence.overconfidence(results, network) if axis == "ece" else _per_feature(runs)
        for part, points in found.items():
            added = [run[overconfidence.ADDED][part]["nll"] for run in runs]
            low, high = min(each["interval"][0] for each in added), max(each["interval"][1] for each in added)
            points.append((place, statistics.mean(each["mean"] for each in added), low, high))
    return {part: sorted(points) for part, points in found.items()}


def _measured(results: Results, name: str) -> dict[str, Any]:
    runs = (overconfidence.ADDED, overconfidence.FACTS)
    return {run: results["runs"][overconfidence.key(name, run)]["measured"] for run in runs}


def _per_feature(runs: list[dict[str, Any]]) -> float:
    return statistics.mean(run[overconfidence.FACTS]["per feature"] for run in runs)


def draw(results: Results) -> bytes:
    """Draw the figure, and return it as SVG."""
    from matplotlib import pyplot, rc_context

    style = {"svg.hashsalt": "suffice", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 10}
    with rc_context(style):
        figure, panels = pyplot.subplots(1, 2, figsize=(9, 4), sharey=True, layout="constrained")
        axes = {"ece": "ECE of the uncalibrated network", "per feature": "training examples per feature"}
        for panel, (axis, title) in zip(panels, axes.items(), strict=True):
            _panel(panel, places(results, axis), title, logarithmic=axis == "per feature")
        panels[0].set_ylabel("added to a temperature: NLL, nats")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
        stream = io.BytesIO()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Description": digest(results)})
        pyplot.close(figure)
    return stream.getvalue()


def _panel(panel: Any, points: Points, title: str, *, logarithmic: bool) -> None:
    for part, (color, marker) in PARTS.items():
        x, mean, low, high = zip(*points[part], strict=True)
        errors = [[m - b for m, b in zip(mean, low, strict=True)], [t - m for m, t in zip(mean, high, strict=True)]]
        panel.errorbar(x, mean, yerr=errors, color=color, marker=marker, label=part, capsize=3, linewidth=1)
    panel.axhline(0, color="#777777", linewidth=0.8)
    panel.set_xlabel(title)
    if logarithmic:
        panel.set_xscale("log")
    panel.spines[["top", "right"]].set_visible(False)


def main() -> None:
    """Write the figure."""
    results = ledger.read(RESULTS / "overconfidence.json")
    files.atomic_write(FIGURE, draw(results), MARK)
    print(FIGURE.name)


if __name__ == "__main__":
    main()
