"""Add the trained MSDNet small of CIFAR-100 to the library: rounded, calibrated, with a policy and a card.

    suffice reproduce cifar100-msdnet-small --epochs 20
    python experiments/ship.py

reads the weights that the first command wrote beside its results, and CIFAR-100 from the store, and writes
`src/suffice/weights/cifar100-msdnet-small`. It does not train, and refuses weights or a split other than the results'.
"""

from pathlib import Path

import torch

import suffice
from suffice import evaluation
from suffice.calibration.calibrated import Calibrated
from suffice.data.splits.images import ImageBatches
from suffice.models import zoo
from suffice.models.zoo import Pretrained
from suffice.network import ExitNetwork
from suffice.reproduce import ledger
from suffice.reproduce.early_exit import msdnet_training
from suffice.reproduce.early_exit.msdnet_training import MSDNetExperiment, Sets
from suffice.reproduce.markdown import table
from suffice.storage.fingerprint import check_fingerprint

RESULTS = Path(__file__).parent
BUDGET = 0.5


def main() -> None:
    """Write the folder and print the card."""
    results = ledger.read(RESULTS / "cifar100-msdnet-small.json")
    settings = results["settings"]
    arguments = {name: settings[name] for name in ("size", "epochs", "seed", "bfloat16", "compiled")}
    config = MSDNetExperiment("cifar100", **arguments)
    sets = config.load()
    network = zoo.round_to_half(_load_network(config, sets, results))
    train, validation, test = (split.batches(500, shuffle=False) for split in (sets.train, sets.validation, sets.test))
    calibrated, ensemble = _calibrate(network, train, validation, config.seed)
    policy = suffice.allocate(calibrated, validation, budget=BUDGET)
    outcome = evaluation.predict(calibrated, test)
    answers = [suffice.run(calibrated, policy, x) for x, _ in test]
    exits = evaluation.per_exit(outcome)
    card = _card(config, results, ensemble, exits, calibrated.costs.cumulative, answers, outcome.labels)
    pretrained = Pretrained(network, calibrated, policy, sets.classes, sets.train.mean, sets.train.std, card)
    zoo.ship(zoo.FOLDER / config.name, pretrained, f"cifar-{config.size}")
    print(card)


def _load_network(config: MSDNetExperiment, sets: Sets, results: dict) -> ExitNetwork:
    """Load the network that the results were measured on.

    Raises:
        FileNotFoundError: If its weights do not exist.
        ValueError: If the split or the network differs from that of the results, or the training is not finished.
    """
    folder = msdnet_training.weights_folder(config, RESULTS, config.name)
    if (split := results["data"][config.source]) != sets.split:
        raise ValueError(f"expected the split {split[:16]}… of the results, got {sets.split[:16]}…; train on it first")
    if not folder.exists():
        raise FileNotFoundError(f"expected weights at {folder}, found none; create them with `{results['command']}`")

    def refuse(what: str, done: int, total: int) -> None:
        raise ValueError(f"expected a finished training at {folder}, found {done} of {total} epochs; resume it first")

    network = msdnet_training.train_network(config, sets, folder, refuse)
    check_fingerprint(network, results["networks"][config.name])
    return network


def _calibrate(
    network: ExitNetwork, train: ImageBatches, validation: ImageBatches, seed: int
) -> tuple[Calibrated, str]:
    """Calibrate with the average and with the product of the exits, and return the better one and its name.

    The better one has the lower sum of the exits' NLL on the validation images.
    """
    by_nll = {}
    for ensemble in ("average", "product"):
        choices = {**evaluation.ABLATION["all"], "ensemble": ensemble}
        generator = torch.Generator().manual_seed(seed)
        calibrated = suffice.calibrate(network, train, validation, generator=generator, **choices)
        exits = evaluation.per_exit(evaluation.predict(calibrated, validation))
        by_nll[sum(at["nll"] for at in exits)] = calibrated, ensemble
    return by_nll[min(by_nll)]


def _card(
    config: MSDNetExperiment,
    results: dict,
    ensemble: str,
    exits: list[dict[str, float]],
    costs: tuple[int, ...],
    answers: list[suffice.Answer],
    labels: torch.Tensor,
) -> str:
    rows = [
        [
            f"exit {k}",
            f"{macs / 1e6:.1f}",
            *(f"{100 * at[name]:.2f}" for name in ("accuracy", "top5")),
            f"{at['ece']:.4f}",
        ]
        for k, (at, macs) in enumerate(zip(exits, costs, strict=True))
    ]
    hits = torch.cat([answer.label for answer in answers]) == labels
    spent = torch.cat([answer.macs for answer in answers]).double().mean() / 1e6
    rows.append(["policy, half the cost", f"{spent:.1f}", f"{100 * hits.double().mean():.2f}", "", ""])
    measured = table(["10,000 test images", "multiply-adds, M", "top-1, %", "top-5, %", "ECE"], rows)
    precision = "bfloat16 (mixed)" if config.bfloat16 else "float32"
    return f"""# {config.name}

MSDNet small (Huang et al. 2018; four exits, 1.42 M parameters) for the 100 classes of CIFAR-100, images 32×32.

{measured}
**Data.** CIFAR-100 (Krizhevsky 2009): 45,000 training images, 5,000 for calibration and the policy, 10,000 for
testing; split {results["data"]["cifar100"][:16]}…

**Recipe.** Stochastic gradient descent, momentum 0.9, weight decay 1e-4, batches of {results["settings"]["batch"]},
random crops and horizontal flips, the sum of the exits' cross-entropies, {config.epochs} epochs with a learning rate of
0.1 and cosine decay, {precision}, seed {config.seed}. The paper trains for 300 epochs and reports a higher accuracy. No
label smoothing, mixup or weight averaging.

**Weights.** Rounded to half precision, then calibrated: last-layer Laplace (Kronecker, exact prior), a temperature
per exit, and the {ensemble} of the exits, which had a lower NLL on the validation images than the other kind of
ensemble. All parameters were tuned on the validation images.

**Made by** `{results["command"]}` and `python experiments/ship.py`; suffice {suffice.__version__}, torch
{torch.__version__}.

**License.** The weights: Apache-2.0, as the library. CIFAR-100 has no stated license; cite Krizhevsky 2009.

**Not for** photographs of other sizes or kinds: an out-of-distribution input is also assigned one of the 100 classes.
"""


if __name__ == "__main__":
    main()
