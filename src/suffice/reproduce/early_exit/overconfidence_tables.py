"""Tables of the comparison on networks of different overconfidence, in Markdown, with a column for each network.

Values are means over a network's seeds. The interval of a difference spans the 95 % intervals of all seeds, so that it
covers both the test images and the trainings.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from suffice.reproduce.early_exit.overconfidence import ADDED, FACTS, PAIRS, ROWS, key, measured_networks
from suffice.reproduce.early_exit.overconfident_networks import OverconfidentNetwork
from suffice.reproduce.ledger import Results
from suffice.reproduce.markdown import MarkdownTable, spread, table

Difference = tuple[float, float, float]
"""Mean over the seeds, and the ends of the interval that spans the intervals of all seeds."""


def networks(results: Results) -> str:
    """Format size, training error and overconfidence of each network."""
    header = [
        "network",
        "seeds",
        "training images",
        "per feature",
        "wrong in training, last exit, %",
        "top-1, %",
        "ECE",
        "ECE with a temperature",
    ]
    rows = []
    for network in measured_networks(results):
        facts, vanilla, temperature = (_runs(results, network, run) for run in (FACTS, "vanilla", "temperature"))
        rows.append(
            [
                network.title,
                f"{len(network.seeds)}",
                f"{facts[0]['train']:,}",
                f"{facts[0]['per feature']:.0f}",
                spread([100 * run["training error"][-1] for run in facts], 1),
                spread([100 * run["averaged"]["accuracy"] for run in vanilla], 2),
                *(spread([run["averaged"]["ece"] for run in row]) for row in (vanilla, temperature)),
            ]
        )
    return table(header, rows)


def rows(results: Results) -> str:
    """Format top-1, NLL and ECE of each row, averaged over the budgets."""
    return _by_network(results, "top-1, % / NLL / ECE", ROWS, partial(_cell, ("accuracy", "nll", "ece")))


def ranking(results: Results) -> str:
    """Format AUROC, AURC and EEFP of each row: how well scores rank, averaged over the budgets."""
    return _by_network(results, "AUROC / AURC / EEFP", ROWS, partial(_cell, ("auroc", "aurc", "eefp")))


def added_nll(results: Results) -> str:
    """Format the difference in NLL that each part makes."""
    return _added(results, "NLL", 1, 4)


def added_ece(results: Results) -> str:
    """Format the difference in calibration error that each part makes."""
    return _added(results, "ECE", 1, 4)


def added_accuracy(results: Results) -> str:
    """Format the difference in top-1 that each part makes, in points."""
    return _added(results, "accuracy", 100, 2)


def difference(results: Results, network: OverconfidentNetwork, part: str, measure: str) -> Difference:
    """Return the difference that a part makes to a measure."""
    values = [run[part][measure] for run in _runs(results, network, ADDED)]
    mean = sum(value["mean"] for value in values) / len(values)
    return mean, min(value["interval"][0] for value in values), max(value["interval"][1] for value in values)


def _added(results: Results, measure: str, scale: float, digits: int) -> str:
    def cell(results: Results, network: OverconfidentNetwork, part: str) -> str:
        mean, low, high = (scale * value for value in difference(results, network, part, measure.lower()))
        return f"{mean:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"

    unit = "top-1, points" if measure == "accuracy" else measure
    return _by_network(results, f"added to a temperature: {unit}", PAIRS, cell)


def _by_network(
    results: Results,
    corner: str,
    names: Mapping[str, Any] | Sequence[str],
    cell: Callable[[Results, OverconfidentNetwork, str], str],
) -> str:
    shown = measured_networks(results)
    body = [[name, *(cell(results, network, name) for network in shown)] for name in names]
    return table([corner, *(network.title for network in shown)], body)


def _cell(measures: Sequence[str], results: Results, network: OverconfidentNetwork, row: str) -> str:
    averages = [run["averaged"] for run in _runs(results, network, row)]
    means = {name: sum(each[name] for each in averages) / len(averages) for name in measures}
    return " / ".join(f"{100 * mean:.2f}" if name == "accuracy" else f"{mean:.3f}" for name, mean in means.items())


def _runs(results: Results, network: OverconfidentNetwork, run: str) -> list[Results]:
    return [results["runs"][key(name, run)]["measured"] for name in network.names]


TABLES: dict[str, MarkdownTable] = {
    function.__name__: function for function in (networks, rows, ranking, added_nll, added_ece, added_accuracy)
}
