"""Tables of results, once: the terminal and the page show the same cells."""

from dataclasses import dataclass
from typing import Any

Results = dict[str, Any]


@dataclass(frozen=True)
class Table:
    """Cells as they are shown; the first column is text, the others are numbers."""

    title: str
    header: list[str]
    rows: list[list[str]]
    note: str = ""


def all_tables(results: Results) -> list[Table]:
    """Every table of the demo's results."""
    return [ablation(results), exits(results), budget(results), variation(results)]


def ablation(results: Results) -> Table:
    """The seven rows averaged over the budgets."""
    header = ["mean over 39 budgets", "top-1", "NLL", "ECE [95 % interval]", "AUROC", "AURC"]
    rows = []
    for row in results["ablation"]:
        mean, (low, high) = row["averaged"], row["intervals"]["ece"]
        error = f"{mean['ece']:.3f} [{low:.3f}, {high:.3f}]"
        cells = [row["name"], f"{mean['accuracy']:.3f}", f"{mean['nll']:.3f}", error]
        rows.append([*cells, f"{mean['auroc']:.3f}", f"{mean['aurc']:.3f}"])
    return Table("Ablation, averaged over budgets", header, rows, results["overlap"])


def exits(results: Results) -> Table:
    """Accuracy and calibration error at each exit: anytime prediction."""
    count = len(results["ablation"][0]["exits"])
    header = ["top-1 / ECE at", *[f"exit {k}" for k in range(count)]]
    rows = [
        [row["name"], *[f"{at['accuracy']:.3f} / {at['ece']:.3f}" for at in row["exits"]]]
        for row in results["ablation"]
    ]
    return Table("Ablation, exit by exit", header, rows)


def budget(results: Results) -> Table:
    """What the policy cost and how long it took, beside the full network."""
    spent, times = results["budget"], results["timing"]
    shares = " / ".join(f"{share:.0%}" for share in spent["shares"])
    rows = [
        ["mean multiply-adds per image", f"{spent['full_macs']:,.0f}", f"{spent['realised_macs']:,.0f}"],
        ["the same as a fraction", "1.000", f"{spent['realised_macs'] / spent['full_macs']:.3f}"],
        ["top-1", f"{spent['full_accuracy']:.3f}", f"{spent['accuracy']:.3f}"],
        ["images answered at each exit", "all at the last", shares],
        ["ms per 1,000 images (median)", f"{times['full_ms']:.1f}", f"{times['run_ms']:.1f}"],
    ]
    note = (
        f"Asked for {spent['asked']:.0%} of the full cost, thresholds from the validation images. "
        f"The network alone, without saying how sure it is: {times['network_ms']:.1f} ms."
    )
    return Table("Half the budget, run for real", ["", "full network", "under the policy"], rows, note)


def variation(results: Results) -> Table:
    """Estimates of the dropout variation against an independent truth."""
    table = results["variation"]
    header = ["estimate of the variation", "passes", "R²", "Spearman"]
    rows = [[row["name"], row["passes"], f"{row['r2']:.3f}", f"{row['spearman']:.3f}"] for row in table["rows"]]
    note = (
        f"Standard deviation of the top class's probability; the truth is {table['truth_passes']:,} "
        "independent passes. It says what dropout would say, not whether the answer is right."
    )
    return Table("Dropout variation", header, rows, note)
