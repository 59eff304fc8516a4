"""Put the trained MSDNet small of CIFAR-100 into the library: rounded, calibrated, with a policy and a card.

    suffice reproduce cifar100-msdnet-small --epochs 20
    python experiments/ship.py

reads the weights that the first command left beside its results, and CIFAR-100 from the store; writes
`src/suffice/weights/cifar100-msdnet-small`. It trains nothing, and takes no other weights or split than the results'.
"""

from pathlib import Path

import torch

import suffice
from suffice import evaluation
from suffice.calibration.calibrated import Calibrated
from suffice.data.images import ImageBatches
from suffice.models import zoo
from suffice.models.zoo import Pretrained
from suffice.network import ExitNetwork
from suffice.reproduce import ledger
from suffice.reproduce.early_exit import msdnets
from suffice.reproduce.early_exit.msdnets import Recipe, Sets
from suffice.reproduce.markdown import table
from suffice.storage.fingerprint import check_fingerprint

RESULTS = Path(__file__).parent
BUDGET = 0.5


def main() -> None:
    """Write the folder, and print the card."""
    results = ledger.read(RESULTS / "cifar100-msdnet-small.json")
    settings = results["settings"]
    chosen = {name: settings[name] for name in ("size", "epochs", "seed", "bfloat16", "compiled")}
    recipe = Recipe("cifar100", **chosen)
    sets = recipe.load()
    network = zoo.rounded(_trained(recipe, sets, results))
    train, validation, test = (part.batches(500) for part in (sets.train, sets.validation, sets.test))
    calibrated, ensemble = _calibrated(network, train, validation, recipe.seed)
    policy = suffice.allocate(calibrated, validation, budget=BUDGET)
    outcome = evaluation.predict(calibrated, test)
    answers = [suffice.run(calibrated, policy, x) for x, _ in test]
    exits = evaluation.per_exit(outcome)
    card = _card(recipe, results, ensemble, exits, calibrated.costs.cumulative, answers, outcome.labels)
    made = Pretrained(network, calibrated, policy, sets.classes, sets.train.mean, sets.train.std, card)
    zoo.ship(zoo.FOLDER / recipe.name, made, f"cifar-{recipe.size}")
    print(card)


def _trained(recipe: Recipe, sets: Sets, results: dict) -> ExitNetwork:
    """The network that the results are of.

    Raises:
        FileNotFoundError: if its weights are not there.
        ValueError: for another split, weights of another network, or a training that is not over.
    """
    folder = msdnets.weights(recipe, RESULTS, recipe.name)
    if (split := results["data"][recipe.source]) != sets.split:
        raise ValueError(f"expected the split {split[:16]}… of the results, got {sets.split[:16]}…; train on it first")
    if not folder.exists():
        raise FileNotFoundError(f"expected weights at {folder}, found none; make them by `{results['command']}`")

    def refuse(what: str, done: int, total: int) -> None:
        raise ValueError(f"expected a training that is over at {folder}, found {done} of {total} epochs; go on first")

    network = msdnets.trained(recipe, sets, folder, refuse)
    check_fingerprint(network, results["networks"][recipe.name])
    return network


def _calibrated(network: ExitNetwork, train: ImageBatches, validation: ImageBatches, seed: int) -> tuple[Calibrated, str]:
    """With the average or with the product of the exits, whichever suits the validation images better; and its name."""
    found = {}
    for ensemble in ("average", "product"):
        made = suffice.calibrate(
            network, train, validation, ensemble=ensemble, generator=torch.Generator().manual_seed(seed)
        )
        exits = evaluation.per_exit(evaluation.predict(made, validation))
        found[sum(at["nll"] for at in exits)] = made, ensemble
    return found[min(found)]


def _card(
    recipe: Recipe,
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
    right = torch.cat([answer.label for answer in answers]) == labels
    spent = torch.cat([answer.macs for answer in answers]).double().mean() / 1e6
    rows.append(["policy, half the cost", f"{spent:.1f}", f"{100 * right.double().mean():.2f}", "", ""])
    measured = table(["10,000 test images", "multiply-adds, M", "top-1, %", "top-5, %", "ECE"], rows)
    precision = "bfloat16 (mixed)" if recipe.bfloat16 else "float32"
    return f"""# {recipe.name}

MSDNet small (Huang et al. 2018; four exits, 1.42 M parameters) for the 100 classes of CIFAR-100, images 32×32.

{measured}
**Data.** CIFAR-100 (Krizhevsky 2009): 45,000 training images, 5,000 to calibrate and for the policy, 10,000 to
judge; split {results["data"]["cifar100"][:16]}…

**Recipe.** Stochastic gradient descent, momentum 0.9, weight decay 1e-4, batches of {results["settings"]["batch"]},
random crops and mirror images, the sum of the exits' cross-entropies, {recipe.epochs} epochs with a learning rate
of 0.1 down a cosine, {precision}, seed {recipe.seed}. The paper trains 300 epochs: expect less
than its accuracy. No label smoothing, mixup or averaging.

**Weights.** Rounded to half precision, then calibrated: last-layer Laplace (Kronecker, exact prior), a temperature
per exit, {ensemble} of the exits, which suited the validation images better than the other kind of ensemble; all tuned
on the validation images.

**Made by** `{results["command"]}` and `python experiments/ship.py`; suffice {suffice.__version__}, torch
{torch.__version__}.

**Licence.** The weights: Apache-2.0, as the library. CIFAR-100 comes without a stated licence; cite Krizhevsky
2009.

**Not for** photographs of other sizes or kinds: an input unlike CIFAR-100's gets one of its 100 classes all the
same.
"""


if __name__ == "__main__":
    main()
