"""Tables of a measurement in Markdown: targets, and every server under every load; medians over the rounds."""

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from benchmarks.service.goodput import Curve, goodput
from benchmarks.service.measure import AT_ONCE, LOADS, ROWS
from benchmarks.service.servers import BATCHES, OURS_FULL, OURS_HALF, STAGES, TRITON

SHOWN = (0.5, 0.8, 1.0, 2.0)
"""Loads of the table."""

LIMITS = (50.0, 100.0, 200.0)
"""Other bounds on p99 in milliseconds that goodput is stated for."""

Entries = dict[str, Any]


class Found:
    """Results of all rounds.

    Args:
        entries: Content of the file of results.
    """

    def __init__(self, entries: Entries) -> None:
        self._results, self.limit = entries["results"], entries["settings"]["limit_ms"]
        self.capacity = {
            key.split("/")[1]: value for key, value in self._results.items() if key.startswith("capacity/")
        }
        self.rounds: dict[str, list[Entries]] = {}
        for key, value in self._results.items():
            if key.startswith("round/"):
                self.rounds.setdefault(key.split("/")[2], []).append(value)

    def point(self, server: str, load: str, name: str) -> float:
        """Return the median of a value of a load over the rounds."""
        return median(one["points"][load][name] for one in self.rounds[server])

    def quality(self, server: str, name: str) -> float:
        """Return the median of the accuracy or the calibration error over the rounds."""
        return median(one["quality"][name] for one in self.rounds[server])

    def goodput(self, server: str, limit: float) -> float:
        """Return the goodput of the medians."""
        loads = [f"own {load:g}" for load in LOADS]
        curve = Curve(*([self.point(server, load, name) for load in loads] for name in ("offered", "p99")))
        return goodput(curve, limit)

    def overhead(self, way: str) -> float:
        """Return by which fraction large requests take longer than the Runner alone."""
        alone = median(value for key, value in self._results.items() if key.startswith("runner/"))
        return median(one["large"][way] for one in self.rounds[OURS_HALF]) / alone - 1


def markdown(entries: Entries) -> str:
    """Return all tables of a measurement, with what it was made with."""
    found, machine = Found(entries), entries["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    settings = entries["settings"]
    head = (
        f"{entries['date']}, {machine['processor']}, servers on core {settings['server_core']}, load generator on core "
        f"{settings['load_core']}; {settings['rounds']} rounds of {settings['seconds']:g} s a load; {versions}."
    )
    rounds = sorted({len(some) for some in found.rounds.values()})
    if rounds != [settings["rounds"]]:
        head += f" Not complete: {rounds[0] if rounds else 0} rounds of {settings['rounds']}."
    note = f"The capacity of a server is what it answers while {AT_ONCE} requests wait; × are multiples of its own."
    return "\n\n".join([head, note, targets(found), loads(found), goodputs(found)])


def targets(found: Found) -> str:
    """Return the table of the targets."""
    rows = list[Sequence[str]]()
    for case, needed, way, target in _TARGETS:
        if all(server in found.rounds for server in needed):
            value, note = way(found)
            rows.append((case, value, target, note))
        else:
            rows.append((case, "not measured", target, ""))
    return _table(("case", "measured", "target", ""), rows)


def loads(found: Found) -> str:
    """Return the table of all servers under all loads."""
    header = ["server", "capacity, requests/s", "top-1, %", "ECE", "mean exit"]
    header += [f"p50 / p99, ms, at {load:g} ×" for load in SHOWN]
    rows = []
    for server in found.rounds:
        keys = [f"own {load:g}" for load in SHOWN]
        times = [f"{found.point(server, key, 'p50'):.1f} / {found.point(server, key, 'p99'):.1f}" for key in keys]
        refused = found.point(server, keys[-1], "refused")
        times[-1] += f" ({100 * refused:.0f} % refused)" if refused else ""
        quality = f"{100 * found.quality(server, 'accuracy'):.2f}", f"{found.quality(server, 'ece'):.4f}"
        exit_ = f"{found.point(server, keys[0], 'exits'):.2f}"
        rows.append((server, f"{found.capacity[server]:.0f}", *quality, exit_, *times))
    return _table(header, rows)


def goodputs(found: Found) -> str:
    """Return the table of the goodput at several bounds."""
    limits = sorted({*LIMITS, found.limit})
    header = ["goodput, requests/s", *(f"p99 ≤ {limit:g} ms" for limit in limits)]
    return _table(header, [(name, *(f"{found.goodput(name, at):.0f}" for at in limits)) for name in found.rounds])


def _saturated(found: Found) -> tuple[str, str]:
    half, full = (
        [found.point(server, "common 2", name) for name in ("answered", "p99")] for server in (OURS_HALF, OURS_FULL)
    )
    return f"{half[0] / full[0]:.2f}×", f"p99 {half[1]:.0f} against {full[1]:.0f} ms"


def _against(peer: str) -> Callable[[Found], tuple[str, str]]:
    def compared(found: Found) -> tuple[str, str]:
        mine, theirs = (found.goodput(server, found.limit) for server in (OURS_HALF, peer))
        ratio = f"{mine / theirs:.2f}×" if theirs else "peer misses the bound at its lowest load"
        return ratio, f"{mine:.0f} against {theirs:.0f} requests/s at p99 ≤ {found.limit:g} ms"

    return compared


def _overhead(found: Found) -> tuple[str, str]:
    one, two = found.overhead("one"), found.overhead("two")
    return f"{100 * one:.0f} %", f"requests of {ROWS}, one after another; two at once: {100 * two:.0f} %"


def _median(found: Found) -> tuple[str, str]:
    half, full = (found.point(server, "common 0.5", "p50") for server in (OURS_HALF, OURS_FULL))
    return f"{half / full:.2f}×", f"{half:.2f} against {full:.2f} ms"


_TARGETS: tuple[tuple[str, tuple[str, ...], Callable[[Found], tuple[str, str]], str], ...] = (
    (
        "half budget against the last exit alone behind this server, at twice the latter's capacity",
        (OURS_HALF, OURS_FULL),
        _saturated,
        "≥ 1.6×, p99 no worse",
    ),
    ("against LitServe, dynamic batching, last exit alone", (OURS_HALF, BATCHES), _against(BATCHES), "≥ 1.8×"),
    ("against a loop over stages on LitServe, same exits", (OURS_HALF, STAGES), _against(STAGES), "≥ 1.0×"),
    ("against Triton, dynamic batching, last exit alone", (OURS_HALF, TRITON), _against(TRITON), "1.3× (goal)"),
    (f"overhead over the Runner at batch {ROWS}", (OURS_HALF,), _overhead, "≤ 20 %"),
    ("median latency at half the last exit's capacity", (OURS_HALF, OURS_FULL), _median, "≤ 0.6×"),
)
"""Cases: what is compared, the servers that it needs, the comparison, and the target."""


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
