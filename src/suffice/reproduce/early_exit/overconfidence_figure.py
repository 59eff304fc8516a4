"""Figure of what each part of a calibration adds to a temperature, against overconfidence and examples per feature.

The figure is an SVG with a background of its own, so that it can be read in light and dark surroundings.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from suffice.reproduce.early_exit.overconfidence import FACTS, key, measured_networks, overconfidence
from suffice.reproduce.early_exit.overconfidence_tables import Difference, difference
from suffice.reproduce.early_exit.overconfident_networks import OverconfidentNetwork
from suffice.reproduce.ledger import Results

PARTS = {
    "Laplace": "#db2777",
    "average of the exits": "#0d9488",
    "the paper's method": "#d97706",
    "product, tuned weights": "#1d4ed8",
}
"""Parts that are drawn, with their colors."""
_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM, _GAP = 900, 420, 70, 60, 100, 60
_TICKS = 5

Position = Callable[[float], float]
"""Function from a value to a coordinate in the figure."""


@dataclass(frozen=True)
class Axis:
    """Horizontal axis of one panel.

    Attributes:
        title: Title below the axis.
        values: Value of each network.
        ticks: Values with a label.
        logarithmic: Whether distances are ratios.
    """

    title: str
    values: Sequence[float]
    ticks: Sequence[float]
    logarithmic: bool = False

    def position(self, left: float, width: float) -> Position:
        """Return the function from values to coordinates between `left` and `left + width`."""
        scale = math.log if self.logarithmic else float
        low, high = scale(self.ticks[0]), scale(self.ticks[-1])
        return lambda value: left + width * (scale(value) - low) / (high - low)


def draw(results: Results) -> str:
    """Draw the figure as an SVG: the difference in NLL of each part in `PARTS`, with its interval."""
    shown = measured_networks(results)
    gains = {part: [difference(results, network, part, "nll") for network in shown] for part in PARTS}
    ticks = _round_ticks([end for part in gains.values() for each in part for end in each])
    vertical = Axis("", (), ticks).position(_HEIGHT - _BOTTOM, _TOP + _BOTTOM - _HEIGHT)
    width = (_WIDTH - 2 * _LEFT - _GAP) / 2
    lines = [_text(_LEFT, 26, "NLL added to a temperature per exit, nats (below 0 is better)", 15)]
    for number, axis in enumerate((_overconfidence(results, shown), _examples(results, shown))):
        left = _LEFT + number * (width + _GAP)
        lines += _panel(axis, axis.position(left, width), vertical, ticks)
        lines += _series(axis, axis.position(left, width), vertical, gains)
    return "\n".join([_HEAD, *lines, *_legend(), "</svg>"]) + "\n"


def _overconfidence(results: Results, shown: Sequence[OverconfidentNetwork]) -> Axis:
    values = [overconfidence(results, network) for network in shown]
    return Axis("calibration error of the uncalibrated network", values, _round_ticks([0, *values]))


def _examples(results: Results, shown: Sequence[OverconfidentNetwork]) -> Axis:
    values = [results["runs"][key(network.names[0], FACTS)]["measured"]["per feature"] for network in shown]
    return Axis("training examples per feature", values, (1, 3, 10, 30, 100, 300, 1000), logarithmic=True)


def _round_ticks(values: Sequence[float]) -> list[float]:
    """Return multiples of a round step that span the values."""
    extent = max(values) - min(values)
    power = 10.0 ** math.floor(math.log10(extent / _TICKS))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor * _TICKS >= extent)
    first, last = math.floor(min(values) / step), math.ceil(max(values) / step)
    return [round(number * step, 10) for number in range(first, last + 1)]


def _panel(axis: Axis, horizontal: Position, vertical: Position, ticks: Sequence[float]) -> list[str]:
    left, right = horizontal(axis.ticks[0]), horizontal(axis.ticks[-1])
    lines = []
    for tick in ticks:
        y = vertical(tick)
        color = "#6b7280" if tick == 0 else "#e5e7eb"
        lines.append(f'<path d="M{left:.1f} {y:.1f}H{right:.1f}" stroke="{color}"/>')
        lines.append(_text(left - 8, y + 4, f"{tick:g}", 12, "end"))
    below = _HEIGHT - _BOTTOM + 20
    lines += [_text(horizontal(tick), below, f"{tick:g}", 12, "middle") for tick in axis.ticks]
    return [*lines, _text((left + right) / 2, _HEIGHT - _BOTTOM + 42, axis.title, 13, "middle")]


def _series(axis: Axis, horizontal: Position, vertical: Position, gains: dict[str, list[Difference]]) -> list[str]:
    lines = []
    for number, (part, color) in enumerate(PARTS.items()):
        aside = 5 * (number - (len(PARTS) - 1) / 2)  # so that intervals at the same place can be told apart
        for value, (mean, low, high) in zip(axis.values, gains[part], strict=True):
            x = horizontal(value) + aside
            interval = f"M{x:.1f} {vertical(low):.1f}V{vertical(high):.1f}"
            lines.append(f'<path d="{interval}" stroke="{color}" stroke-width="2"/>')
            lines.append(f'<circle cx="{x:.1f}" cy="{vertical(mean):.1f}" r="4" fill="{color}"/>')
    return lines


def _legend() -> list[str]:
    lines = []
    for number, (part, color) in enumerate(PARTS.items()):
        x, y = _LEFT + 205 * number, _HEIGHT - 24
        lines += [f'<circle cx="{x}" cy="{y - 4}" r="5" fill="{color}"/>', _text(x + 12, y, part, 13)]
    return lines


def _text(x: float, y: float, text: str, size: int, anchor: str = "start") -> str:
    escaped = text.replace("&", "&amp;").replace("<", "&lt;")
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}">{escaped}</text>'


_HEAD = (
    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}" '
    'font-family="system-ui, sans-serif" fill="#111827">\n'
    f'<rect width="{_WIDTH}" height="{_HEIGHT}" rx="8" fill="#ffffff"/>'
)
