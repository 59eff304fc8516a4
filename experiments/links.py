"""How far each link is from 100,000 samples, and how many offsets are worth their cost.

`python experiments/links.py` prints the tables of docs/links.md and writes experiments/links.json. Two trained
heads: the last exit of the reference network on scikit-learn's digits (C = 10), and a linear head on overlapping
synthetic clusters (C = 100). Kronecker posterior, exact prior, temperature 1; the mean over examples of Σ_c |Δp_c|.
"""

import json
import sys
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path

import torch
from torch import Tensor, nn

import suffice
from suffice import Exit, ExitNetwork
from suffice.calibration.exits import CalibratedExit
from suffice.data import digits
from suffice.training import train

DELTAS = (0.1, 1.0, 10.0, 100.0)
SAMPLES = (8, 16, 32, 64)
EXAMPLES, TRUTH, SEEDS = 40, 100_000, 5


@dataclass(frozen=True)
class Row:
    """One head and prior precision: the error of each link; sampled links as mean over seeds."""

    head: str
    delta: float
    errors: dict[str, float]


def digits_head() -> tuple[str, ExitNetwork, list[tuple[Tensor, Tensor]], Tensor]:
    """The last exit of the reference network, its features computed once."""
    data = digits.load(seed=0)
    torch.manual_seed(0)
    network = suffice.models.convnet(num_classes=10, widths=(4, 16, 64))
    train(network, data.train.shuffled(64, generator=torch.Generator().manual_seed(0)), epochs=40)
    with torch.no_grad():
        phi = {split: features(network.eval(), getattr(data, split).images) for split in ("train", "test")}
    return "digits, C=10", over_features(network.exit(2).classifier), [(phi["train"], data.train.labels)], phi["test"]


def clusters_head(classes: int = 100, width: int = 128) -> tuple[str, ExitNetwork, list[tuple[Tensor, Tensor]], Tensor]:
    """A linear head fitted to non-negative features of classes that overlap."""
    torch.manual_seed(0)
    centres, labels = torch.randn(classes, width), torch.randint(classes, (10_000,))
    phi = (centres[labels] + 1.5 * torch.randn(len(labels), width)).relu()
    network = over_features(nn.Linear(width, classes))
    train(network, list(zip(phi.split(256), labels.split(256), strict=True)), epochs=10, learning_rate=0.01)
    return f"clusters, C={classes}", network.eval(), [(phi, labels)], phi.flip(0)


def features(network: ExitNetwork, images: Tensor) -> Tensor:
    """φ of the last exit."""
    state = images
    for k in range(len(network.exits)):
        state, phi = network.advance(k, state)
    return phi


def over_features(classifier: nn.Linear) -> ExitNetwork:
    """A network whose input is φ."""
    return ExitNetwork([nn.Identity()], [Exit(nn.Identity(), classifier)]).eval()


def truth(exit_: CalibratedExit, phi: Tensor, logits: Tensor) -> Tensor:
    """Probabilities (N, C) from independent samples of the posterior."""
    posterior = exit_.posterior.to(torch.device("cpu"), torch.float64)
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
    """Errors of every link at every prior precision."""
    with torch.enable_grad():
        plain = suffice.calibrate(network, loader, loader, link="plugin", temperature=False).exits[0]
    phi = phi[:EXAMPLES]
    logits, found = network(phi)[0], []
    for delta in DELTAS:
        exit_ = plain.with_prior(delta)
        exact = truth(exit_, phi, logits)

        def error(
            link: str, samples: int = 0, seed: int = 0, exit_: CalibratedExit = exit_, exact: Tensor = exact
        ) -> float:
            generator = torch.Generator().manual_seed(seed)
            answer = exit_.with_posterior(exit_.posterior, link, samples, generator).predict(phi, logits)
            return float((answer.probs - exact).abs().sum(dim=1).mean())

        errors = {link: error(link) for link in ("plugin", "probit", "meanfield")}
        for samples in SAMPLES:
            errors[f"sampled, {samples}"] = sum(error("sampled", samples, seed) for seed in range(SEEDS)) / SEEDS
        found.append(Row(name, delta, errors))
    return found


def markdown(found: list[Row]) -> str:
    """The table."""
    names = list(found[0].errors)
    lines = [f"| head | δ | {' | '.join(names)} |", "|---" * (len(names) + 2) + "|"]
    lines += [f"| {r.head} | {r.delta:g} | {' | '.join(f'{r.errors[n]:.3f}' for n in names)} |" for r in found]
    return "\n".join(lines)


def main() -> None:
    """Print the table and write the results beside this file."""
    torch.set_num_threads(1)
    found = [row for head in (digits_head, clusters_head) for row in rows(*head())]
    print(markdown(found))
    results = {
        "command": "python experiments/links.py",
        "date": date.today().isoformat(),
        "versions": {"suffice": suffice.__version__, "torch": torch.__version__, "python": sys.version.split()[0]},
        "settings": {"examples": EXAMPLES, "truth_samples": TRUTH, "seeds_of_the_sampled_links": SEEDS, "seed": 0},
        "rows": [asdict(row) for row in found],
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
