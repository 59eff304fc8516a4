"""Tables of paper two in Markdown, from the results of `measurements`."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from suffice.reproduce import ledger
from suffice.reproduce.dropout.measurements import RATES, SEEDS, key
from suffice.reproduce.ledger import Results
from suffice.reproduce.markdown import MarkdownTable, spread, table

_RANKS = ("r2_log", "spearman", "auc_low", "auc_high")


def estimates(results: Results) -> str:
    """Format the noise-corrected R² of every estimate in every setting, mean ± deviation over seeds."""
    return _by_setting(results, "R² against 1,000 passes", lambda rows: spread([row["r2"] for row in rows]))


def ranks(results: Results) -> str:
    """Format R² of the logarithm, Spearman, and AUC of the lowest and the highest tenth, means over seeds."""

    def cell(rows: list[dict[str, Any]]) -> str:
        return " / ".join(f"{sum(row[name] for row in rows) / len(rows):.3f}" for name in _RANKS)

    return _by_setting(results, "R² of log / Spearman / AUC lowest, highest 10 %", cell)


def subsets(results: Results) -> str:
    """Format the subsets of layers that the greedy selection tried, each over the networks for which it was tried."""
    runs, rows = ledger.measured(results), []
    for rates in RATES:
        by_layers: dict[tuple[str, ...], list[dict[str, Any]]] = {}
        for seed in SEEDS:
            for tried in runs[key(rates, seed)]["subsets"]:
                by_layers.setdefault(tuple(tried["layers"]), []).append(tried)
        rows += [_subset(rates.name, layers, tried) for layers, tried in by_layers.items()]
    header = ["setting", "layers", "networks", "strengths", "multiply-adds relative to the network", "R², validation"]
    return table(header, rows)


def _subset(setting: str, layers: Sequence[str], tried: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the row of a subset, from the networks for which it was tried."""
    names = ", ".join(layers) or "the prediction alone"
    cost = f"{100 * statistics.mean(each['cost'] for each in tried):.2f} %"
    strengths = f"{statistics.mean(each['strengths'] for each in tried):.0f}"
    return [setting, names, str(len(tried)), strengths, cost, spread([each["r_squared"] for each in tried], 3)]


def quality(results: Results) -> str:
    """Format the quality of the deterministic predictions of each network."""
    runs = ledger.measured(results)
    names = list(next(iter(runs.values()))["quality"])
    rows = []
    for rates in RATES:
        qualities = [runs[key(rates, seed)]["quality"] for seed in SEEDS]
        rows.append([rates.name, *(spread([quality[name] for quality in qualities], 4) for name in names)])
    return table(["network", *names], rows)


def _by_setting(results: Results, corner: str, cell: Callable[[list[dict[str, Any]]], str]) -> str:
    runs = ledger.measured(results)
    by_estimate: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for rates in RATES:
        for seed in SEEDS:
            for row in runs[key(rates, seed)]["rows"]:
                by_estimate.setdefault(row["name"], {}).setdefault(rates.name, []).append(row)
    names = [rates.name for rates in RATES]
    rows = [
        [estimate, *(cell(by_rates[name]) if name in by_rates else "–" for name in names)]
        for estimate, by_rates in by_estimate.items()
    ]
    return table([corner, *names], rows)


TABLES: dict[str, MarkdownTable] = {function.__name__: function for function in (estimates, ranks, subsets, quality)}
