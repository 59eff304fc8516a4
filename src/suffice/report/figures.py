"""Figures of a report: functions from results, as `suffice demo --json` prints them, to Plotly figures."""

from collections.abc import Callable
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

Results = dict[str, Any]

COLORS = {
    "vanilla": "#6b7280",
    "temperature": "#d97706",
    "ensemble": "#65a30d",
    "ensemble + temperature": "#0d9488",
    "Laplace": "#db2777",
    "Laplace + temperature": "#7c3aed",
    "all": "#b91c1c",
    "default": "#1d4ed8",
}
EXITS = ("#93c5fd", "#3b82f6", "#1e3a8a", "#f59e0b", "#b45309", "#78350f", "#10b981", "#065f46")


def cost_curves(results: Results) -> go.Figure:
    """Plot accuracy and calibration error against mean cost, with a line for each row of the ablation."""
    figure = make_subplots(1, 2, subplot_titles=("accuracy", "calibration error (ECE)"), horizontal_spacing=0.1)
    for row in results["ablation"]:
        for column, measure in enumerate(("accuracy", "ece"), start=1):
            figure.add_scatter(
                x=[point["macs"] for point in row["curve"]],
                y=[point[measure] for point in row["curve"]],
                name=row["name"],
                legendgroup=row["name"],
                showlegend=column == 1,
                mode="lines",
                line={
                    "color": COLORS[row["name"]],
                    "width": 3 if row["name"] in ("vanilla", "default") else 1.5,
                },
                row=1,
                col=column,
            )
    figure.update_xaxes(title="mean multiply-adds per example")
    return _styled(figure, 420)


def reliability(results: Results) -> go.Figure:
    """Plot accuracy against confidence at each exit, before and after calibration; the point size shows its share."""
    rows = {row["name"]: row for row in results["ablation"]}
    num_exits = len(rows["vanilla"]["reliability"])
    titles = [f"exit {k}" for k in range(num_exits)]
    figure = make_subplots(1, num_exits, subplot_titles=titles, shared_yaxes=True, horizontal_spacing=0.03)
    for name in ("vanilla", "default"):
        for k, table in enumerate(rows[name]["reliability"]):
            filled = [(n, confidence / n, hits / n) for n, confidence, hits in table if n]
            figure.add_scatter(
                x=[confidence for _, confidence, _ in filled],
                y=[accuracy for _, _, accuracy in filled],
                name=name,
                legendgroup=name,
                showlegend=k == 0,
                mode="lines+markers",
                line={"color": COLORS[name]},
                marker={"size": [5 + 25 * (n / results["data"]["test"]) ** 0.5 for n, _, _ in filled]},
                row=1,
                col=k + 1,
            )
    for k in range(num_exits):
        figure.add_scatter(x=[0, 1], y=[0, 1], mode="lines", showlegend=False, row=1, col=k + 1, line=_DIAGONAL)
    figure.update_xaxes(title="confidence", range=[0, 1.04])
    figure.update_yaxes(title="accuracy", range=[0, 1.04], col=1)
    return _styled(figure, 400)


def exit_shares(results: Results) -> go.Figure:
    """Plot the share of the test images that stop at each exit against mean cost, with the chosen budget as a line."""
    curve = next(row["curve"] for row in results["ablation"] if row["name"] == "default")
    figure = go.Figure()
    for k in range(len(curve[0]["shares"])):
        figure.add_scatter(
            x=[point["macs"] for point in curve],
            y=[point["shares"][k] for point in curve],
            name=f"exit {k}",
            mode="lines",
            line={"width": 0},
            fillcolor=EXITS[k % len(EXITS)],
            stackgroup="exits",
        )
    figure.add_vline(x=results["budget"]["realised_macs"], line={"dash": "dash", "color": "#111827"})
    figure.update_xaxes(title="mean multiply-adds per example")
    figure.update_yaxes(title="share of images", range=[0, 1])
    return _styled(figure, 380)


def variation(results: Results) -> go.Figure:
    """Plot the estimates of one pass and of ten dropout passes against a reference of a thousand passes."""
    table = results["variation"]
    truth = table["truth"]
    figure = go.Figure()
    for name, color in (("dropout, T = 10", "#d1d5db"), ("estimator", "#1d4ed8")):
        estimate = next(row["estimate"] for row in table["rows"] if row["name"] == name)
        figure.add_scatter(
            x=truth,
            y=estimate,
            mode="markers",
            name=name,
            marker={"size": 5, "color": color, "opacity": 0.7},
        )
    top = max(truth)
    figure.add_scatter(x=[0, top], y=[0, top], mode="lines", showlegend=False, line=_DIAGONAL)
    figure.update_xaxes(title=f"true variation: {table['truth_passes']} dropout passes")
    figure.update_yaxes(title="estimated variation")
    return _styled(figure, 480)


FIGURES: dict[str, Callable[[Results], go.Figure]] = {
    "Accuracy and calibration error against cost": cost_curves,
    "Reliability of each exit": reliability,
    "Where the examples stop": exit_shares,
    "Dropout variation, from one pass": variation,
}
"""Function of each figure by its title, in the order of the page."""

_DIAGONAL = {"color": "#9ca3af", "dash": "dot", "width": 1}


def _styled(figure: go.Figure, height: int) -> go.Figure:
    figure.update_layout(
        template="plotly_white",
        height=height,
        margin={"l": 60, "r": 20, "t": 40, "b": 50},
        legend={"orientation": "h", "y": -0.22},
        font={"family": "system-ui, sans-serif", "size": 13},
    )
    return figure
