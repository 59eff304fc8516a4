"""Tables of results, with the same cells in the terminal and on the page."""

from dataclasses import dataclass
from typing import Any

Results = dict[str, Any]


@dataclass(frozen=True)
class Table:
    """Table with formatted cells; the first column is text, the others are numbers.

    Attributes:
        title: Title of the table.
        header: Name of each column.
        rows: Cells of each row.
        note: Remark below the table.
    """

    title: str
    header: list[str]
    rows: list[list[str]]
    note: str = ""


def all_tables(results: Results) -> list[Table]:
    """Return all tables of the demo's results."""
    return [ablation(results), exits(results), budget(results), variation(results)]


def ablation(results: Results) -> Table:
    """Return the table of the ablation, averaged over the budgets."""
    header = ["mean over 39 budgets", "top-1", "NLL", "ECE [95 % interval]", "AUROC", "AURC"]
    rows = []
    for row in results["ablation"]:
        mean, (low, high) = row["averaged"], row["intervals"]["ece"]
        error = f"{mean['ece']:.3f} [{low:.3f}, {high:.3f}]"
        cells = [row["name"], f"{mean['accuracy']:.3f}", f"{mean['nll']:.3f}", error]
        rows.append([*cells, f"{mean['auroc']:.3f}", f"{mean['aurc']:.3f}"])
    return Table("Ablation, averaged over budgets", header, rows, results["overlap"])


def exits(results: Results) -> Table:
    """Return the table of accuracy and calibration error at each exit, for anytime prediction."""
    num_exits = len(results["ablation"][0]["exits"])
    header = ["top-1 / ECE at", *[f"exit {k}" for k in range(num_exits)]]
    rows = [
        [row["name"], *[f"{at['accuracy']:.3f} / {at['ece']:.3f}" for at in row["exits"]]]
        for row in results["ablation"]
    ]
    return Table("Ablation, exit by exit", header, rows)


def budget(results: Results) -> Table:
    """Return the table of the policy's cost and time beside those of the full network."""
    spent, times = results["budget"], results["timing"]
    shares = " / ".join(f"{share:.0%}" for share in spent["shares"])
    rows = [
        ["mean multiply-adds per image", f"{spent['full_macs']:,.0f}", f"{spent['realised_macs']:,.0f}"],
        ["the same as a fraction", "1.000", f"{spent['realised_macs'] / spent['full_macs']:.3f}"],
        ["top-1", f"{spent['full_accuracy']:.3f}", f"{spent['accuracy']:.3f}"],
        ["images that stop at each exit", "all at the last", shares],
        ["ms per 1,000 images (median)", f"{times['full_ms']:.1f}", f"{times['run_ms']:.1f}"],
    ]
    note = (
        f"Requested: {spent['asked']:.0%} of the full cost; thresholds from the validation images. "
        f"The network alone, without uncertainty: {times['network_ms']:.1f} ms."
    )
    return Table("Half the budget, measured", ["", "full network", "under the policy"], rows, note)


def variation(results: Results) -> Table:
    """Return the table of estimates of the dropout variation against an independent reference."""
    table = results["variation"]
    header = ["estimate of the variation", "passes", "R²", "Spearman"]
    rows = [[row["name"], row["passes"], f"{row['r2']:.3f}", f"{row['spearman']:.3f}"] for row in table["rows"]]
    note = (
        f"Standard deviation of the top class's probability; the truth is {table['truth_passes']:,} "
        "independent passes. It estimates the variation under dropout, not whether a prediction is correct."
    )
    return Table("Dropout variation", header, rows, note)
