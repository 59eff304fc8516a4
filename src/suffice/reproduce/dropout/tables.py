"""Tables of paper two in Markdown, from the results of `measurements`."""

from collections.abc import Callable
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
    """Format the subsets of layers that the greedy selection tried, with R² and cost, for the first seed."""
    rows = []
    for rates in RATES:
        for tried in ledger.measured(results)[key(rates, SEEDS[0])]["subsets"]:
            layers = ", ".join(tried["layers"]) or "the prediction alone"
            cost = f"{100 * tried['cost']:.2f} %"
            rows.append([rates.name, layers, str(tried["strengths"]), cost, f"{tried['r_squared']:.3f}"])
    return table(["setting", "layers", "strengths", "multiply-adds relative to the network", "R², validation"], rows)


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
