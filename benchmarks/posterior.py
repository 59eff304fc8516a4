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
from suffice.calibration.exits import with_bias
from suffice.calibration.moments import standard_normals
from suffice.calibration.posterior import kronecker, lowrank
from suffice.cost import count, interleaved

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
    optimiser = torch.optim.Adam(linear.parameters(), 3e-3)
    for index in torch.randint(examples, (200, 512)):
        optimiser.zero_grad()
        nn.functional.cross_entropy(linear(phi[index]), labels[index]).backward()
        optimiser.step()
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


def against_peer(classes: int, scaled: int) -> list[list[str]]:
    """Rows for D = 128: our sampled link beside the peer's default and its weight sampling."""
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
        times = interleaved(ways)
        started = time.perf_counter()
        memory = peak_bytes(lambda: theirs(x[:scaled], pred_type="glm", link_approx="probit"))
        glm = 1e3 * (time.perf_counter() - started) * EXAMPLES / scaled
        ours_memory = max(peak_bytes(lambda: default(x)) for _ in range(3))
        few = x[:50]
        exact = truth(default, few)
        near = (fifty(few)[0].probs - exact).abs().mean()
        far = statistics.mean(
            float((theirs(few, pred_type="nn", link_approx="mc", n_samples=50) - exact).abs().mean()) for _ in range(10)
        )
    note = "" if scaled == EXAMPLES else f" ({scaled} examples, scaled)"
    name, own, half = f"predict, D=128, C={classes}", times["ours"], times["ours, 50"]
    memories = f"{ours_memory / 1e6:.0f} / {memory / 1e6:.0f} MB"
    return [
        [f"{name}: peer's default / ours{note}", f"{glm:.0f} / {own:.2f} ms", f"{glm / own:,.0f}×"],
        [f"{name}: memory, ours / peer's", memories, f"{ours_memory / memory:.1%}"],
        [f"{name}: peer's 50 weight samples / our 50", _ms(times["peer nn"], half), f"{times['peer nn'] / half:.1f}×"],
        [f"{name}: mean |Δp| to 100,000 samples, peer's / our", f"{far:.1e} / {near:.1e}", f"{far / near:.1f}×"],
        [f"{name}: ours / the plain layer", _ms(own, times["plain"]), f"{own / times['plain']:.0f}×"],
    ]


def _ms(a: float, b: float) -> str:
    return f"{a:.2f} / {b:.2f} ms"


def many_classes(rates: tuple[float, float]) -> list[list[str]]:
    """Rows for D = 2,048 and C = 1,000: beside the plain layer and softmax, and beside the floor."""
    data = head(2048, 1000, examples=5000)
    x = data.phi[:EXAMPLES]
    links = {f"{samples} offsets": calibrated(data, samples) for samples in (SAMPLES, 64)}
    ways: dict[str, Callable[[], object]] = {"plain": lambda: data.linear(x).softmax(dim=-1)}
    ways |= {name: (lambda ours=ours: ours(x)) for name, ours in links.items()}
    with torch.no_grad():
        times = interleaved(ways, repeats=5)
    rows = []
    for name, ours in links.items():
        macs = EXAMPLES * (2048 * 1000 + ours.costs.uncertainty[0])
        floor = 1e3 * macs / rates[0]
        rows.append(
            [
                f"predict, D=2,048, C=1,000, {name} / plain",
                f"{times[name]:.0f} / {times['plain']:.0f} ms",
                f"{times[name] / times['plain']:.1f}× (floor {floor:.0f} ms)",
            ]
        )
    return rows


def fitting() -> list[list[str]]:
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
    ratio = times["fit"] / times["plain"]
    macs = count(network, images[0]).network[-1]
    name = f"fit, C=1,000, backbone of {macs / 1e9:.1f} G / plain pass"
    return [[name, f"{times['fit']:.0f} / {times['plain']:.0f} ms", f"{ratio:.2f}×"]]


def lowrank_memory() -> list[str]:
    """The row of the low-rank posterior over as many classes as ImageNet-21k has."""
    case = "fit and predict 1,000, D=2,048, C=21,841, lowrank: memory of the whole process"
    return [case, f"{peak_of_a_process(imagenet_21k) / 1e9:.2f} GB", "below 4 GB"]


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
    rates = ceilings()
    table = Table("case", "measured", "ratio", title=f"{torch.get_num_threads()} threads, batch {EXAMPLES:,}")
    for rows in (against_peer(10, EXAMPLES), against_peer(100, 20), many_classes(rates), fitting(), [lowrank_memory()]):
        for row in rows:
            table.add_row(*row)
    console = Console(width=120)
    console.print(table)
    console.print(f"at best: {rates[0] / 1e9:.0f} G multiply-adds/s, {rates[1] / 1e9:.1f} GB/s copied")


if __name__ == "__main__":
    main()
