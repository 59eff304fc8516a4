"""Paper two's tables in Markdown, from what `dropout` measured."""

from collections.abc import Callable
from typing import Any

from suffice.reproduce import ledger
from suffice.reproduce.dropout.measurements import SEEDS, SETTINGS, key
from suffice.reproduce.ledger import Results
from suffice.reproduce.markdown import MarkdownTable, spread, table

_RANKS = ("r2_log", "spearman", "auc_low", "auc_high")


def estimates(results: Results) -> str:
    """Noise-corrected R² of every estimate in every setting, mean ± deviation over seeds."""
    return _by_setting(results, "R² against 1,000 passes", lambda rows: spread([row["r2"] for row in rows]))


def ranks(results: Results) -> str:
    """R² of the logarithm, Spearman, and AUC of the lowest and the highest tenth, means over seeds."""

    def cell(rows: list[dict[str, Any]]) -> str:
        return " / ".join(f"{sum(row[name] for row in rows) / len(rows):.3f}" for name in _RANKS)

    return _by_setting(results, "R² of log / Spearman / AUC lowest, highest 10 %", cell)


def subsets(results: Results) -> str:
    """Which layers were tried, greedily, and what each subset is worth and costs; the first seed."""
    rows = []
    for setting in SETTINGS:
        for tried in ledger.measured(results)[key(setting, SEEDS[0])]["subsets"]:
            layers = ", ".join(tried["layers"]) or "the prediction alone"
            cost = f"{100 * tried['cost']:.2f} %"
            rows.append([setting.name, layers, str(tried["strengths"]), cost, f"{tried['r_squared']:.3f}"])
    return table(["setting", "layers", "strengths", "multiply-adds beside the network's", "R², validation"], rows)


def quality(results: Results) -> str:
    """How good the networks are without dropout."""
    runs = ledger.measured(results)
    names = list(next(iter(runs.values()))["quality"])
    rows = []
    for setting in SETTINGS:
        found = [runs[key(setting, seed)]["quality"] for seed in SEEDS]
        rows.append([setting.name, *(spread([one[name] for one in found], 4) for name in names)])
    return table(["network", *names], rows)


def _by_setting(results: Results, corner: str, cell: Callable[[list[dict[str, Any]]], str]) -> str:
    runs = ledger.measured(results)
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for setting in SETTINGS:
        for seed in SEEDS:
            for row in runs[key(setting, seed)]["rows"]:
                found.setdefault(row["name"], {}).setdefault(setting.name, []).append(row)
    names = [setting.name for setting in SETTINGS]
    rows = [[estimate, *(cell(of[name]) if name in of else "–" for name in names)] for estimate, of in found.items()]
    return table([corner, *names], rows)


TABLES: dict[str, MarkdownTable] = {function.__name__: function for function in (estimates, ranks, subsets, quality)}
