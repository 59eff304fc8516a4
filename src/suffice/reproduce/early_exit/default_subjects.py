"""Networks on which the default of `calibrate` is compared with every other row: images, texts, clicks and numbers.

    CIFAR-100          the network of the library; its frozen stages with heads fitted to few images
    Tiny ImageNet      frozen EfficientNet-Lite0 of ImageNet, exits only
    CLINC150           frozen MiniLM, exits only
    Criteo, MovieLens  towers with an exit after each hidden layer: clicks, and ratings as a regression
    diabetes           three layers with an exit after each, 240 patients: a regression with little data

All are trained, if at all, in minutes, and have been chosen for that. Each is a study over cached features.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

import suffice
from suffice import cost, data
from suffice.evaluation import cached
from suffice.evaluation.ablation import AblationStudy
from suffice.network import Exit, ExitNetwork, State, select
from suffice.reproduce.dropout import recommenders
from suffice.reproduce.dropout.recommenders import TowerConfig
from suffice.reproduce.early_exit import lite0, overconfident_networks
from suffice.reproduce.early_exit.text import minilm
from suffice.training import AdamWConfig, train
from suffice.utils.progress import ProgressCallback

SEED, BATCH = 0, 500
TOWER_TEST, TOWER_VALIDATION = 8000, 4000
"""Rows of a tower's data that are measured, and that it is calibrated on."""
PATIENTS, PATIENTS_TEST = 240, 142
"""Patients that the network for diabetes is trained on, and measured on; those between them are for calibration."""

Make = Callable[[Path, ProgressCallback], AblationStudy]
"""Function from a folder for weights and a callback for the progress to a study."""


@dataclass(frozen=True)
class DefaultSubject:
    """Network of the comparison.

    Attributes:
        title: Title in the table.
        make: Function that returns the study.
        likelihood: Likelihood of the outputs.
    """

    title: str
    make: Make
    likelihood: str = "classification"

    @property
    def is_regression(self) -> bool:
        """True if the outputs are means of numbers."""
        return self.likelihood == "regression"


def images(out: Path, progress: ProgressCallback, *, number: int) -> AblationStudy:
    """Return network `number` of the comparison of overconfident networks."""
    return overconfident_networks.NETWORKS[number].make(SEED, out, progress)


def photographs(out: Path, progress: ProgressCallback) -> AblationStudy:
    """Return exits on EfficientNet-Lite0."""
    del out
    return lite0.train_exits(data.load(lite0.SOURCE, seed=lite0.SEED, **lite0.PARTS), progress)[1]


def texts(out: Path, progress: ProgressCallback) -> AblationStudy:
    """Return exits on MiniLM."""
    requests, _ = minilm.load()
    return minilm.train_and_cache("frozen", SEED, requests, out, progress)[1].study


def tower(out: Path, progress: ProgressCallback, *, config: TowerConfig) -> AblationStudy:
    """Train a tower with exits."""
    del out, progress
    sizes, splits, _ = recommenders.read(config)
    generator = torch.Generator().manual_seed(SEED)
    torch.manual_seed(SEED)
    x, labels = splits["train"]
    exits_after = tuple(range(1, len(config.hidden)))
    numeric = x["numeric"].shape[1] if "numeric" in x else 0
    network = suffice.models.tower(
        sizes, numeric=numeric, embedding=config.embedding, hidden=config.hidden, exits_after=exits_after
    )
    order = torch.randperm(len(labels), generator=generator)
    batches = [(select(x, rows), _targets(config, labels[rows])) for rows in order.split(config.batch)]
    train(network, batches, epochs=config.epochs, likelihood=config.likelihood)
    network.requires_grad_(False).eval()
    counts = {"train": len(labels), "validation": TOWER_VALIDATION, "test": TOWER_TEST}
    features = {}
    for part, count in counts.items():
        x, labels = splits[part]
        rows = torch.randperm(len(labels), generator=generator)[:count]
        loader = [(select(x, some), _targets(config, labels[some])) for some in rows.split(BATCH)]
        features[part] = cached.compute(network, loader)
    return _study(network, select(x, torch.arange(1)), features)


def patients(out: Path, progress: ProgressCallback) -> AblationStudy:
    """Train a small network on scikit-learn's table on the progression of diabetes."""
    from sklearn.datasets import load_diabetes

    del out, progress
    table, target = (torch.from_numpy(array).float() for array in load_diabetes(return_X_y=True))
    x, y = table * len(table) ** 0.5, (target[:, None] - 150) / 75
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(SEED))
    rows = {
        "train": order[:PATIENTS],
        "validation": order[PATIENTS:-PATIENTS_TEST],
        "test": order[-PATIENTS_TEST:],
    }
    torch.manual_seed(SEED)
    widths = (x.shape[1], 32, 32, 32)
    stages = [nn.Sequential(nn.Linear(n, m), nn.Tanh()) for n, m in pairwise(widths)]
    network = ExitNetwork(stages, [Exit(nn.Identity(), nn.Linear(32, 1)) for _ in stages])
    part = rows["train"]
    train(network, [(x[part], y[part])], epochs=300, optimizer=AdamWConfig(3e-3), likelihood="regression")
    network.requires_grad_(False).eval()
    features = {name: cached.compute(network, [(x[part], y[part])]) for name, part in rows.items()}
    return _study(network, x[:1], features)


def _targets(config: TowerConfig, labels: Tensor) -> Tensor:
    """Return clicks as integers (N,), or ratings as numbers (N, 1)."""
    return labels.long() if config.likelihood == "binary" else labels[:, None]


def _study(network: ExitNetwork, example: State, features: dict[str, cached.Features]) -> AblationStudy:
    costs = cost.count(network, example)
    train_features, validation, test = (features[part] for part in ("train", "validation", "test"))
    return AblationStudy(cached.network_on_features(network), costs, train_features, validation, test, SEED)


_CRITEO, _MOVIELENS = recommenders.CRITEO, recommenders.MOVIELENS

SUBJECTS = (
    DefaultSubject("CIFAR-100, the network of the library", partial(images, number=0)),
    DefaultSubject("CIFAR-100, heads fitted to 2,500 images", partial(images, number=1)),
    DefaultSubject("CIFAR-100, heads fitted to 500 images", partial(images, number=2)),
    DefaultSubject("Tiny ImageNet, EfficientNet-Lite0", photographs),
    DefaultSubject("CLINC150, MiniLM", texts),
    DefaultSubject("Criteo, tower", partial(tower, config=_CRITEO), "binary"),
    DefaultSubject("MovieLens, tower", partial(tower, config=_MOVIELENS), "regression"),
    DefaultSubject("diabetes, 240 patients", patients, "regression"),
)
"""Networks of the comparison."""
