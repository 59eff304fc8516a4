"""Tables of the text experiment in Markdown: means over the complete seeds, ± their standard deviation.

Differences from the plain network are paired: the same test texts and the same seed. Their intervals are for the mean
over the seeds, of texts drawn anew: d ± 1.96 s/√N with the N differences per text, averaged over the seeds.
"""

import statistics
from collections.abc import Sequence
from functools import partial
from typing import Any

from suffice.reproduce import ledger
from suffice.reproduce.early_exit import measurements
from suffice.reproduce.early_exit.text.measurements import CHOICES, ROWS, measures
from suffice.reproduce.early_exit.text.minilm import RECIPES, SEEDS
from suffice.reproduce.ledger import Results
from suffice.reproduce.markdown import MarkdownTable, spread, table

REFERENCE, MAIN = "fine-tuned", "joint"
"""Network whose last exit all are compared with, and the network with every row."""
_DIGITS = {"accuracy": 2, "nll": 4, "brier": 4, "ece": 4, "auroc": 4, "aurc": 4, "eefp": 4}
_NAMES = ("top-1, %", "NLL", "Brier", "ECE", "AUROC", "AURC", "EEFP")


def keys(seed: int) -> list[str]:
    """Return the keys of all runs of a seed."""
    return [f"{name}, seed {seed}: {key}" for name in RECIPES for key in measures(whole=name == MAIN)]


KEYS = keys(SEEDS[0])
"""Keys of the runs that the tables need; they show all seeds whose runs are complete."""


def complete(results: Results) -> list[int]:
    """Return the seeds whose runs are complete."""
    return [seed for seed in SEEDS if results["runs"].keys() >= set(keys(seed))]


def networks(results: Results) -> str:
    """Format the cost and the quality of the last exit of each network, and the top-1 of all its exits."""
    rows = []
    for name, recipe in RECIPES.items():
        macs = [run["plain"]["macs"] / 1e6 for run in _seeds(results, name, "budgets")]
        for choice in ("vanilla", measurements.DEFAULT):
            runs = _seeds(results, name, f"{choice}, by exit")
            last = [run["exits"][-1] for run in runs]
            each = zip(*([at["accuracy"] for at in run["exits"]] for run in runs), strict=True)
            cells = [spread([100 * at["accuracy"] for at in last], 2), spread([at["nll"] for at in last], 4)]
            accuracies = " / ".join(f"{100 * statistics.mean(seeds):.1f}" for seeds in each)
            rows.append([f"{recipe.title}: {choice}", f"{statistics.mean(macs):.0f}", *cells, _error(last), accuracies])
    header = ["last exit", "multiply-adds of a text, M", "top-1, %", "NLL", "ECE / floor", "top-1 of each exit, %"]
    return table(header, rows)


def averaged(results: Results) -> str:
    """Format the measures averaged over the 39 budgets, for all rows of the main network and some of the others."""
    names = [(MAIN, name, name) for name in CHOICES]
    names += [(other, name, f"{RECIPES[other].title}: {name}") for other in RECIPES if other != MAIN for name in ROWS]
    rows = []
    for network, key, title in names:
        runs = [run["averaged"] for run in _seeds(results, network, key)]
        rows.append([title, *(_spread(runs, measure) for measure in _DIGITS)])
    return table(["mean over 39 budgets", *_NAMES], rows)


def added(results: Results) -> str:
    """Format the difference that each part makes, over the seeds: mean, lowest and highest end of their intervals."""
    runs = _seeds(results, MAIN, "added")
    rows = [
        [part, *(_difference(measure, [run[part][measure] for run in runs]) for measure in ("accuracy", "nll", "ece"))]
        for part in measurements.ROW_PAIRS
    ]
    return table(["adding, mean over 39 budgets [95 %]", "top-1, points", "NLL", "ECE"], rows)


def exits(results: Results) -> str:
    """Format top-1, NLL and ECE at each exit of the main network."""
    rows = []
    for name in CHOICES:
        runs = [run["exits"] for run in _seeds(results, MAIN, name)]
        rows.append([name, *(_exit(seeds) for seeds in zip(*runs, strict=True))])
    return table(["top-1, % / NLL / ECE", *(f"exit {k}" for k in range(len(rows[0]) - 1))], rows)


def budgets(results: Results, name: str = MAIN) -> str:
    """Format quality, cost and time of a network under budgets, beside the plain network."""
    reference = _seeds(results, REFERENCE, "vanilla, by exit")
    plain = [run["exits"][-1] for run in reference]
    detection = _seeds(results, REFERENCE, "out of scope")
    rows = [
        [
            "plain network", "1", "1", "1", _spread(plain, "accuracy"), "", _error(plain),
            f"{100 * statistics.mean(run['max-probability']['auroc'] for run in detection):.1f}", "",
        ]
    ]  # fmt: skip
    runs, texts = _seeds(results, name, "budgets"), results["settings"]["test"]
    for place, first in enumerate(runs[0]["rows"]):
        seeds = [run["rows"][place] for run in runs]
        rows.append(
            [
                f"{100 * first['fraction']:.0f} %",
                f"{spread([row['speedup'] for row in seeds], 2)}",
                *(spread(_faster(runs, place, size), 2) for size in ("64", "1")),
                _spread(seeds, "accuracy"),
                _paired([row["wrong"] for row in seeds], [run["wrong"] for run in reference], texts),
                _error(seeds),
                f"{100 * statistics.mean(row['out of scope']['auroc'] for row in seeds):.1f}",
                f"{statistics.mean(_outside(run, place) for run in runs):.2f}",
            ]
        )
    header = [
        "budget, of the last exit", "fewer multiply-adds, ×", "faster, batches of 64, ×", "faster, one text, ×",
        "top-1, %", "minus plain, points [95 %]", "ECE / floor", "out of scope, AUROC, %",
        "out of scope, fewer multiply-adds, ×",
    ]  # fmt: skip
    return table(header, rows)


def guarantees(results: Results) -> str:
    """Format the loss of guaranteed policies on the test texts, their cost and top-1."""
    runs, rows = _seeds(results, MAIN, "guarantees"), []
    for place, first in enumerate(runs[0]["rows"]):
        seeds = [run["rows"][place] for run in runs]
        lost = [100 * row["lost"] for row in seeds]
        rows.append(
            [
                f"{first['loss']} at most {100 * first['bound']:g} %",
                " / ".join(f"{value:.2f}" for value in lost),
                spread([row["speedup"] for row in seeds], 2),
                _spread(seeds, "accuracy"),
                _error(seeds),
            ]
        )
    header = ["loss, with 95 % confidence", "on the test texts, %, each seed", "fewer multiply-adds, ×", "top-1, %"]
    return table([*header, "ECE / floor"], rows)


def out_of_scope(results: Results) -> str:
    """Format the detection of requests out of scope by each score of the last exit of each network."""
    runs = {name: _seeds(results, name, "out of scope") for name in RECIPES}
    rows = [[score, *(_detection([run[score] for run in seeds]) for seeds in runs.values())] for score in runs[MAIN][0]]
    return table(["AUROC / FPR95, %", *(RECIPES[name].title for name in runs)], rows)


def scores(results: Results) -> str:
    """Format the comparison of scores as exit criteria, for the row "all" of the main network."""
    runs = [run["rows"] for run in _seeds(results, MAIN, "scores")]
    rows = [
        [
            seeds[0]["score"],
            spread([100 * row["accuracy"] for row in seeds], 2),
            *(spread([row[measure] for row in seeds], 4) for measure in ("eefp", "aurc")),
        ]
        for seeds in zip(*runs, strict=True)
    ]
    return table(["score", "top-1, %", "EEFP", "AURC"], rows)


def _seeds(results: Results, network: str, key: str) -> list[Results]:
    """Return a run of each complete seed."""
    runs = ledger.measured(results)
    return [runs[f"{network}, seed {seed}: {key}"] for seed in complete(results)]


def _spread(rows: Sequence[Results], measure: str) -> str:
    scale = 100 if measure == "accuracy" else 1
    return spread([scale * row[measure] for row in rows], _DIGITS[measure])


def _error(rows: Sequence[Results]) -> str:
    """Format the calibration error and its noise floor."""
    return " / ".join(f"{statistics.mean(row[name] for row in rows):.4f}" for name in ("ece", "floor"))


def _exit(rows: Sequence[Results]) -> str:
    accuracy, nll, ece = (statistics.mean(row[measure] for row in rows) for measure in ("accuracy", "nll", "ece"))
    return f"{100 * accuracy:.2f} / {nll:.3f} / {ece:.3f}"


def _difference(measure: str, runs: Sequence[Any]) -> str:
    scale, digits = (100, 2) if measure == "accuracy" else (1, 4)
    lows, highs = zip(*(run["interval"] for run in runs), strict=True)
    mean = statistics.mean(run["mean"] for run in runs)
    values = (f"{scale * value:+.{digits}f}" for value in (mean, min(lows), max(highs)))
    return "{} [{}, {}]".format(*values)


def _paired(wrong: Sequence[str], reference: Sequence[str], texts: int) -> str:
    """Format the difference of two accuracies from the positions of wrong answers, one line of them for each seed."""
    differences = [0.0] * texts
    for sign, runs in ((-1, wrong), (1, reference)):
        for run in runs:
            for row in map(int, run.split()):
                differences[row] += 100 * sign / len(runs)
    mean, half = statistics.mean(differences), 1.96 * statistics.stdev(differences) / texts**0.5
    return f"{mean:+.2f} [{mean - half:+.2f}, {mean + half:+.2f}]"


def _faster(runs: Sequence[Results], place: int, size: str) -> list[float]:
    """Return, for each seed, how much faster a budget is than the plain network."""
    return [run["plain"]["milliseconds"][size] / run["rows"][place]["milliseconds"][size] for run in runs]


def _outside(run: Results, place: int) -> float:
    """Return how many times fewer multiply-adds than the plain network a budget spends on a request out of scope."""
    return float(run["plain"]["macs, out of scope"] / run["rows"][place]["out of scope"]["macs"])


def _detection(runs: Sequence[Results]) -> str:
    auroc, fpr95 = ([100 * run[name] for run in runs] for name in ("auroc", "fpr95"))
    return f"{spread(auroc, 1)} / {statistics.mean(fpr95):.1f}"


TABLES: dict[str, MarkdownTable] = {
    **{
        function.__name__: function
        for function in (networks, averaged, added, exits, budgets, guarantees, out_of_scope, scores)
    },
    "budgets_later": partial(budgets, name=REFERENCE),
}
