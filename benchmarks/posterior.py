"""Last-layer posteriors beside laplace-torch: seconds, memory, and the distance to many samples.

`make bench-posterior` prints the table of one interleaved run, torch pinned to the processors that there are.
Heads are trained on synthetic clusters, so that they are confident as real ones are. The peer's default path
(`glm`, probit) is run on fewer examples where it takes minutes, and scaled; its row says so.
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
from torch import Tensor, nn

import suffice
from benchmarks.machine import ceilings, peak_bytes, peak_of_a_process
from suffice import Exit, ExitNetwork
from suffice.calibration import links
from suffice.calibration.calibrated import Calibrated
from suffice.calibration.ensemble import shares_of_cost
from suffice.calibration.exits import with_bias
from suffice.calibration.posterior import kronecker, lowrank
from suffice.calibration.posterior.moments import standard_normals
from suffice.calibration.statistics import exit_pass
from suffice.calibration.tuning import grid, validation
from suffice.calibration.tuning.cache import Cache
from suffice.cost import count
from suffice.utils.timing import interleaved

EXAMPLES = 1000


@dataclass(frozen=True)
class Head:
    """A trained linear head over φ (N, D) with labels (N,)."""

    linear: nn.Linear
    phi: Tensor
    labels: Tensor

    def loader(self, size: int = 1000) -> list[tuple[Tensor, Tensor]]:
        """φ and labels in batches."""
        return list(zip(self.phi.split(size), self.labels.split(size), strict=True))


def head(features: int, classes: int, examples: int = 10_000) -> Head:
    """Non-negative features of classes that overlap, and a head fitted to them by a few hundred steps."""
    torch.manual_seed(0)
    centres = torch.randn(classes, features)
    labels = torch.randint(classes, (examples,))
    phi = (centres[labels] + 1.5 * torch.randn(examples, features)).relu()
    linear = nn.Linear(features, classes)
    optimizer = torch.optim.Adam(linear.parameters(), 3e-3)
    for index in torch.randint(examples, (200, 512)):
        optimizer.zero_grad()
        nn.functional.cross_entropy(linear(phi[index]), labels[index]).backward()
        optimizer.step()
    return Head(linear.requires_grad_(False), phi, labels)


def calibrated(data: Head, samples: int) -> Calibrated:
    """Our side: the Kronecker posterior at δ = 1 and T = 1, nothing tuned, the ensemble off."""
    network = ExitNetwork([nn.Identity()], [Exit(nn.Identity(), data.linear)])
    choices = {"link": "plugin", "temperature": False, "ensemble": False}
    plain = suffice.calibrate(network, data.loader(), data.loader(), **choices)
    posterior, generator = plain.exits[0].posterior, torch.Generator().manual_seed(0)
    exit_ = plain.exits[0].with_posterior(posterior, "sampled", samples, generator)
    return Calibrated(network, [exit_], False, plain.costs, plain.network_hash)


def truth(ours: Calibrated, phi: Tensor, samples: int = 100_000) -> Tensor:
    """Probabilities (N, C) from that many independent samples of the exact-prior Kronecker posterior."""
    posterior = ours.exits[0].posterior
    generator = torch.Generator().manual_seed(1)
    logits = ours.network(phi)[0].double()
    augmented = with_bias(phi, 1.0)
    factors = torch.linalg.cholesky(posterior.to(torch.device("cpu"), torch.float64).covariance(augmented.double()))
    rows = []
    for mean, factor in zip(logits, factors, strict=True):
        z = torch.randn(samples, len(mean), generator=generator, dtype=torch.float64)
        rows.append((mean + z @ factor.T).softmax(dim=1).mean(dim=0))
    return torch.stack(rows)


def peer(data: Head) -> object:
    """laplace-torch's Kronecker last layer, fitted on the same data at the same prior precision."""
    from laplace import KronLLLaplace
    from laplace.curvature import CurvlinopsGGN

    model = nn.Sequential(nn.Identity(), data.linear)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    laplace = KronLLLaplace(model, "classification", last_layer_name="1", prior_precision=1.0, backend=CurvlinopsGGN)
    laplace.fit(torch.utils.data.DataLoader(torch.utils.data.TensorDataset(data.phi, data.labels), 1000))
    return laplace


@dataclass(frozen=True)
class Row:
    """One case: two measured values, their ratio, what it must be, and the floor of our side in milliseconds."""

    case: str
    measured: str
    ratio: str
    must: str = ""
    ours: float | None = None
    floor: float | None = None

    def cells(self) -> list[str]:
        """As the table prints it."""
        floor = "" if self.ours is None or self.floor is None else f"{self.floor:.2g} ms, {self.ours / self.floor:.1f}×"
        return [self.case, self.measured, self.ratio, self.must, floor]


@dataclass(frozen=True)
class Machine:
    """Multiply-adds and bytes a second at best."""

    macs: float
    bytes: float

    def floor(self, macs: float, moved: float) -> float:
        """Milliseconds that so many multiply-adds and bytes take at least."""
        return 1e3 * max(macs / self.macs, moved / self.bytes)

    def predicting(self, ours: Calibrated, features: int, classes: int) -> float:
        """Floor of a batch: layer and uncertainty; φ, weights and offsets read once, probabilities written."""
        offsets, served = ours.exits[0].offsets, ours.costs.uncertainty[0]
        kept = offsets.values.numel() + offsets.basis.numel() + 2 * features * classes
        moved = 4 * (EXAMPLES * (features + classes) + kept)
        return self.floor(EXAMPLES * (features * classes + served), moved)


def against_peer(machine: Machine, classes: int, scaled: int, must: str) -> list[Row]:
    """D = 128: our sampled link beside the peer's default and its weight sampling."""
    data = head(128, classes)
    x, theirs = data.phi[:EXAMPLES], peer(data)
    default, fifty = calibrated(data, SAMPLES), calibrated(data, 50)
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
        exact = truth(default, few)
        near = float((fifty(few)[0].probs - exact).abs().mean())
        far = statistics.mean(
            float((theirs(few, pred_type="nn", link_approx="mc", n_samples=50) - exact).abs().mean()) for _ in range(10)
        )
    note = "" if scaled == EXAMPLES else f", {scaled} examples scaled"
    name, own, half, nn50 = f"predict, D=128, C={classes}", times["ours"], times["ours, 50"], times["peer nn"]
    floor, floor50 = (machine.predicting(ours, 128, classes) for ours in (default, fifty))
    memories = f"{memory / 1e6:.0f} / {ours_memory / 1e6:.0f} MB"
    errors = f"{far:.1e} / {near:.1e}"
    return [
        Row(f"{name}: peer's default{note} / ours", _ms(glm, own), f"{glm / own:,.0f}×", must, own, floor),
        Row(f"{name}: memory, peer's default / ours", memories, f"{ours_memory / memory:.1%}", "≤ 5 %"),
        Row(
            f"{name}: peer's 50 weight samples / our 50", _ms(nn50, half), f"{nn50 / half:.1f}×", "≥ 4×", half, floor50
        ),
        Row(f"{name}: mean |Δp| to 100,000 samples, peer's 50 / our 50", errors, f"{far / near:.1f}×", "> 1×"),
        Row(f"{name}: ours / the plain layer", _ms(own, times["plain"]), f"{own / times['plain']:.0f}×"),
    ]


def _ms(a: float, b: float) -> str:
    return f"{a:,.2f} / {b:,.2f} ms" if min(a, b) < 10 else f"{a:,.0f} / {b:,.0f} ms"


def many_classes(machine: Machine) -> list[Row]:
    """D = 2,048 and C = 1,000, beside the plain layer and softmax; and where the prior drowns few features."""
    data = head(2048, 1000, examples=5000)
    x = data.phi[:EXAMPLES]
    links_ = {samples: calibrated(data, samples) for samples in (SAMPLES, 64)}
    cases = {f"{samples} offsets": ours for samples, ours in links_.items()}
    cases |= {f"{samples} offsets, δ = 0.01": ours.with_prior(0.01) for samples, ours in links_.items()}
    ways: dict[str, Callable[[], object]] = {"plain": lambda: data.linear(x).softmax(dim=-1)}
    ways |= {name: (lambda ours=ours: ours(x)) for name, ours in cases.items()}
    with torch.no_grad():
        times = interleaved(ways, repeats=5)
    musts = {f"{SAMPLES} offsets": "≤ 3×", "64 offsets": "≤ 6×"}
    rows = []
    for name, ours in cases.items():
        projected = ours.exits[0].posterior.compressed().feature_vectors.shape[1]
        case = f"predict, D=2,048, C=1,000, {name} ({projected:,} features projected) / plain"
        measured, ratio = _ms(times[name], times["plain"]), f"{times[name] / times['plain']:.1f}×"
        floor = machine.predicting(ours, 2048, 1000)
        rows.append(Row(case, measured, ratio, musts.get(name, ""), times[name], floor))
    return rows


def fitting() -> list[Row]:
    """The statistics pass behind a backbone of over a billion multiply-adds, beside plain inference."""
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
    """δ and T of four exits jointly, beside running MSDNet again for each point of a grid."""
    torch.manual_seed(0)
    network = suffice.models.msdnet("cifar-small", num_classes=100).eval()
    images, labels = torch.rand(examples, 3, 32, 32), torch.randint(100, (examples,))
    loader = list(zip(images.split(100), labels.split(100), strict=True))
    options = {"temperature": False, "link": "plugin", "ensemble": True}
    ours = suffice.calibrate(network, loader, loader, **options)
    exits = [exit_.with_posterior(exit_.posterior, "sampled", SAMPLES, None) for exit_ in ours.exits]
    with torch.no_grad():
        parts = [[out[1:] for out in exit_pass(network, x, 1)] for x, _ in loader]
        outputs = [[torch.cat(tensors) for tensors in zip(*exit_, strict=True)] for exit_ in zip(*parts, strict=True)]
        caches = [Cache(z, exit_.spectrum(phi)) for exit_, (phi, z) in zip(exits, outputs, strict=True)]
        one_pass = interleaved({"pass": lambda: [network(x) for x, _ in loader]}, repeats=1)["pass"]
    ways = {
        "gradient": lambda: validation.tune(exits, caches, labels, shares_of_cost(ours.costs), temperature=True),
        "grid": lambda: grid.tune(exits, caches, labels, shares_of_cost(ours.costs), temperature=True),
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
    """The low-rank posterior over as many classes as ImageNet-21k has."""
    case = "fit and predict 1,000, D=2,048, C=21,841, lowrank: memory of the whole process"
    return [Row(case, f"{peak_of_a_process(imagenet_21k) / 1e9:.2f} GB", "", "< 4 GB")]


def imagenet_21k() -> None:
    """Sum, fit and predict by the default link, with features and a head drawn at random."""
    classes, width, generator = 21_841, 2048, torch.Generator().manual_seed(0)
    weights = torch.randn(width, classes, generator=generator) / 12
    sums = lowrank.init(width, classes)
    for _ in range(4):
        phi = torch.randn(128, width, generator=generator).relu()
        sums = lowrank.update(sums, phi, phi @ weights)
    posterior = lowrank.Posterior.fit(sums).to(torch.device("cpu"), torch.float32)
    offsets = posterior.sample_offsets(standard_normals(SAMPLES, posterior.noise, generator=generator))
    phi = torch.randn(EXAMPLES, width, generator=generator).relu()
    coefficients = posterior.coefficients(posterior.spectrum(phi), offsets)
    log_probs, _ = links.sampled(phi @ weights, coefficients, offsets.values, 1.0)
    assert log_probs.isfinite().all()


SAMPLES = 16
"""Offsets of the default link."""


def main() -> None:
    """Print the table."""
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
