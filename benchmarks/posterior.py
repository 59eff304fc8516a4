"""Last-layer posteriors compared with laplace-torch: time, memory, and the error against many samples.

`make bench-posterior` prints the table of one interleaved run, with one torch thread per available CPU. The heads are
trained on synthetic clusters, so that they are as confident as real ones. Where the default method of the peer (`glm`,
probit) takes minutes, it is run on fewer examples and scaled, which its row states.
"""

import argparse
import os
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import suffice
from benchmarks.heads import calibrate_head, make_head, peer, reference_probs
from benchmarks.machine import ceilings, peak_bytes, peak_of_a_process
from suffice import Exit, ExitNetwork
from suffice.calibration import links
from suffice.calibration.calibrated import Calibrated
from suffice.calibration.choices import Choices
from suffice.calibration.ensemble import shares_of_cost
from suffice.calibration.posterior import kronecker, lowrank
from suffice.calibration.posterior.moments import standard_normals
from suffice.calibration.statistics import exit_pass
from suffice.calibration.tuning import grid, validation
from suffice.calibration.tuning.objective import Cache, Objective
from suffice.cost import count
from suffice.evaluation.ablation import AVERAGE
from suffice.utils.timing import interleaved

EXAMPLES = 1000


@dataclass(frozen=True)
class Row:
    """Row of the table.

    Attributes:
        case: Description of the case.
        measured: Both measured values.
        ratio: Ratio of the values.
        must: Required ratio.
        ours: Time of this library in ms.
        floor: Lower bound of that time on this machine in ms.
    """

    case: str
    measured: str
    ratio: str
    must: str = ""
    ours: float | None = None
    floor: float | None = None

    def cells(self) -> list[str]:
        """Return the cells of the row."""
        floor = "" if self.ours is None or self.floor is None else f"{self.floor:.2g} ms, {self.ours / self.floor:.1f}×"
        return [self.case, self.measured, self.ratio, self.must, floor]


@dataclass(frozen=True)
class Machine:
    """Peak multiply-adds and bytes per second of this machine."""

    macs: float
    bytes: float

    def floor(self, macs: float, moved: float) -> float:
        """Compute a lower bound in ms for the time of multiply-adds and of bytes moved."""
        return 1e3 * max(macs / self.macs, moved / self.bytes)

    def prediction_floor(self, calibrated: Calibrated, features: int, classes: int) -> float:
        """Compute a lower bound in ms for one batch: φ, weights and offsets are read, probabilities are written."""
        offsets, served = calibrated.exits[0].offsets, calibrated.costs.uncertainty[0]
        parameters = offsets.values.numel() + offsets.basis.numel() + 2 * features * classes
        moved = 4 * (EXAMPLES * (features + classes) + parameters)
        return self.floor(EXAMPLES * (features * classes + served), moved)


def against_peer(machine: Machine, classes: int, scaled: int, must: str) -> list[Row]:
    """Compare the sampled link with the default of the peer and with its weight sampling, at D = 128."""
    data = make_head(128, classes)
    x, theirs = data.phi[:EXAMPLES], peer(data)
    default, fifty = calibrate_head(data, SAMPLES), calibrate_head(data, 50)
    ways: dict[str, Callable[[], object]] = {
        "plain": lambda: data.linear(x).softmax(dim=-1),
        "ours": lambda: default(x),
        "ours, 50": lambda: fifty(x),
        "peer nn": lambda: theirs(x, pred_type="nn", link_approx="mc", n_samples=50),
    }
    with torch.no_grad():
        times = interleaved(ways, repeats=15)
        started = time.perf_counter()
        memory = peak_bytes(lambda: theirs(x[:scaled], pred_type="glm", link_approx="probit"))
        glm = 1e3 * (time.perf_counter() - started) * EXAMPLES / scaled
        ours_memory = max(peak_bytes(lambda: default(x)) for _ in range(3))
        few = x[:50]
        exact = reference_probs(default, few)
        our_error = float((fifty(few)[0].probs - exact).abs().mean())
        peer_error = statistics.mean(
            float((theirs(few, pred_type="nn", link_approx="mc", n_samples=50) - exact).abs().mean()) for _ in range(10)
        )
    note = "" if scaled == EXAMPLES else f", {scaled} examples scaled"
    name, ms, ms50, nn50 = f"predict, D=128, C={classes}", times["ours"], times["ours, 50"], times["peer nn"]
    floor, floor50 = (machine.prediction_floor(calibrated, 128, classes) for calibrated in (default, fifty))
    memories = f"{memory / 1e6:.0f} / {ours_memory / 1e6:.0f} MB"
    errors = f"{peer_error:.1e} / {our_error:.1e}"
    return [
        Row(f"{name}: peer's default{note} / ours", _ms(glm, ms), f"{glm / ms:,.0f}×", must, ms, floor),
        Row(f"{name}: memory, peer's default / ours", memories, f"{ours_memory / memory:.1%}", "≤ 5 %"),
        Row(
            f"{name}: peer's 50 weight samples / our 50", _ms(nn50, ms50), f"{nn50 / ms50:.1f}×", "≥ 4×", ms50, floor50
        ),
        Row(
            f"{name}: mean |Δp| to 100,000 samples, peer's 50 / our 50",
            errors,
            f"{peer_error / our_error:.1f}×",
            "> 1×",
        ),
        Row(f"{name}: ours / the plain layer", _ms(ms, times["plain"]), f"{ms / times['plain']:.0f}×"),
    ]


def _ms(a: float, b: float) -> str:
    return f"{a:,.2f} / {b:,.2f} ms" if min(a, b) < 10 else f"{a:,.0f} / {b:,.0f} ms"


def many_classes(machine: Machine) -> list[Row]:
    """Compare with the plain layer and softmax at D = 2,048 and C = 1,000, also with a weak prior."""
    data = make_head(2048, 1000, examples=5000)
    x = data.phi[:EXAMPLES]
    by_samples = {samples: calibrate_head(data, samples) for samples in (SAMPLES, 64)}
    cases = {f"{samples} offsets": calibrated for samples, calibrated in by_samples.items()}
    cases |= {f"{samples} offsets, δ = 0.01": calibrated.with_prior(0.01) for samples, calibrated in by_samples.items()}
    ways: dict[str, Callable[[], object]] = {"plain": lambda: data.linear(x).softmax(dim=-1)}
    ways |= {name: (lambda calibrated=calibrated: calibrated(x)) for name, calibrated in cases.items()}
    with torch.no_grad():
        times = interleaved(ways, repeats=5)
    musts = {f"{SAMPLES} offsets": "≤ 3×", "64 offsets": "≤ 6×"}
    rows = []
    for name, calibrated in cases.items():
        projected = calibrated.exits[0].posterior.compressed().feature_vectors.shape[1]
        case = f"predict, D=2,048, C=1,000, {name} ({projected:,} features projected) / plain"
        measured, ratio = _ms(times[name], times["plain"]), f"{times[name] / times['plain']:.1f}×"
        floor = machine.prediction_floor(calibrated, 2048, 1000)
        rows.append(Row(case, measured, ratio, musts.get(name, ""), times[name], floor))
    return rows


def fitting() -> list[Row]:
    """Compare the statistics pass with plain inference, for a backbone of over a billion multiply-adds."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(3, 192, 3, padding=1)]
    layers += [nn.Conv2d(192, 192, 3, padding=1), nn.ReLU()] * 4
    backbone = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(192, 512), nn.ReLU()).eval()
    network = ExitNetwork([backbone], [Exit(nn.Identity(), nn.Linear(512, 1000))]).eval()
    images = [torch.rand(16, 3, 32, 32) for _ in range(2)]

    def statistics_pass() -> None:
        sums = kronecker.init(512, 1000)
        for x in images:
            _, phi = network.advance(0, x)
            sums = kronecker.update(sums, phi, network.exit(0).classifier(phi))

    with torch.no_grad():
        times = interleaved({"fit": statistics_pass, "plain": lambda: [network(x) for x in images]}, repeats=5)
    macs = count(network, images[0]).network[-1]
    name = f"fit, C=1,000, backbone of {macs / 1e9:.1f} G / plain pass"
    return [Row(name, _ms(times["fit"], times["plain"]), f"{times['fit'] / times['plain']:.2f}×", "≤ 1.1×")]


def tuning(points: int = 100, examples: int = 1000) -> list[Row]:
    """Compare tuning δ and T of four exits with running MSDNet once for each point of a grid."""
    torch.manual_seed(0)
    network = suffice.models.msdnet("cifar-small", num_classes=100).eval()
    images, labels = torch.rand(examples, 3, 32, 32), torch.randint(100, (examples,))
    loader = list(zip(images.split(100), labels.split(100), strict=True))
    options = {"temperature": False, "link": "plugin", **AVERAGE}
    calibrated = suffice.calibrate(network, loader, loader, **options)
    exits = [exit_.with_posterior(exit_.posterior, "sampled", SAMPLES, None) for exit_ in calibrated.exits]
    with torch.no_grad():
        parts = [[out[1:] for out in exit_pass(network, x, 1)] for x, _ in loader]
        outputs = [[torch.cat(tensors) for tensors in zip(*exit_, strict=True)] for exit_ in zip(*parts, strict=True)]
        caches = [Cache(z, exit_.spectrum(phi)) for exit_, (phi, z) in zip(exits, outputs, strict=True)]
        one_pass = interleaved({"pass": lambda: [network(x) for x, _ in loader]}, repeats=1)["pass"]
    objective = Objective(caches, labels, shares_of_cost(calibrated.costs))
    ways = {
        "gradient": lambda: validation.tune(exits, objective, Choices(**AVERAGE)),
        "grid": lambda: grid.tune(exits, objective, Choices(**AVERAGE)),
    }
    times = interleaved(ways, repeats=1)
    name = f"tune 4 exits of MSDNet small, {examples:,} examples"
    return [
        Row(
            f"{name}, {way} / {points} passes", _ms(took, points * one_pass), f"{took / points / one_pass:.1%}", "≤ 2 %"
        )
        for way, took in times.items()
    ]


def lowrank_memory() -> list[Row]:
    """Measure the memory of the low-rank posterior with as many classes as ImageNet-21k."""
    case = "fit and predict 1,000, D=2,048, C=21,841, lowrank: memory of the whole process"
    return [Row(case, f"{peak_of_a_process(imagenet_21k) / 1e9:.2f} GB", "", "< 4 GB")]


def imagenet_21k() -> None:
    """Accumulate, fit and predict with the default link, on random features and a random head."""
    classes, width, generator = 21_841, 2048, torch.Generator().manual_seed(0)
    weights = torch.randn(width, classes, generator=generator) / 12
    sums = lowrank.init(width, classes)
    for _ in range(4):
        phi = torch.randn(128, width, generator=generator).relu()
        sums = lowrank.update(sums, phi, phi @ weights)
    posterior = lowrank.Posterior.fit(sums)
    normals = standard_normals(SAMPLES, posterior.num_normals, generator=generator)
    offsets = posterior.sample_offsets(normals).to(torch.device("cpu"), torch.float32)
    phi = torch.randn(EXAMPLES, width, generator=generator).relu()
    coefficients = posterior.coefficients(posterior.spectrum(phi), offsets)
    log_probs, _ = links.sampled(phi @ weights, coefficients, offsets.values, 1.0)
    assert log_probs.isfinite().all()


SAMPLES = 16
"""Number of offsets of the default link."""


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    torch.set_num_threads(parser.parse_args().threads)
    warnings.simplefilter("ignore")
    machine = Machine(*ceilings())
    title = f"{torch.get_num_threads()} threads, batch {EXAMPLES:,}"
    table = Table("case", "measured", "ratio", "must reach", "floor, and our time over it", title=title)
    parts: list[Callable[[], list[Row]]] = [
        lambda: against_peer(machine, 10, EXAMPLES, "≥ 100×"),
        lambda: against_peer(machine, 100, 20, "≥ 5,000×"),
        lambda: many_classes(machine),
        fitting,
        tuning,
        lowrank_memory,
    ]
    for part in parts:
        for row in part():
            table.add_row(*row.cells())
    console = Console(width=180)
    console.print(table)
    console.print(f"at best: {machine.macs / 1e9:.0f} G multiply-adds/s, {machine.bytes / 1e9:.1f} GB/s copied")


if __name__ == "__main__":
    main()
