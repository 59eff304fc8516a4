"""Decisions on what to learn from: labels for a network on digits, and rewards of a linear bandit."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from suffice import metrics
from suffice.data.sources import digits
from suffice.reproduce.posterior.comparison import Comparison, calibrate, classifier, fit, ridge, rows_per_class

INITIAL, ACQUIRED, ROUNDS = 2, 10, 10
"""Labeled images of each class at first, images acquired in a round, and rounds."""
BANDIT_ROUNDS, CONTEXTS, EXPLORED = 20, 30, 0.1
"""Rounds of the bandit, images in each of them, and share of random choices of the ε-greedy rule."""

Score = Callable[[nn.Module, tuple[Tensor, Tensor], Tensor, int], Tensor]
"""Function from a network, its labeled images, a pool of images (N, …) and a seed to scores (N,)."""


def _at_random(network: nn.Module, known: tuple[Tensor, Tensor], pool: Tensor, seed: int) -> Tensor:
    del network, known
    return torch.rand(len(pool), generator=torch.Generator().manual_seed(seed))


def _entropy(network: nn.Module, known: tuple[Tensor, Tensor], pool: Tensor, seed: int) -> Tensor:
    del known, seed
    with torch.no_grad():
        log_probs: Tensor = network(pool).log_softmax(dim=1)
    return -(log_probs.exp() * log_probs).sum(dim=1)


def _epistemic(network: nn.Module, known: tuple[Tensor, Tensor], pool: Tensor, seed: int) -> Tensor:
    epistemic: Tensor = calibrate(network, [known], None, seed, tuning="evidence")(pool)[-1].epistemic
    return epistemic


RULES: dict[str, Score] = {
    "labels at random": _at_random,
    "labels of the greatest entropy": _entropy,
    "labels of the greatest epistemic entropy": _epistemic,
}


def of_labels(seed: int) -> list[Comparison]:
    """Compare rules that acquire labels, by the accuracy after the last round and its mean over the rounds."""
    curves = {name: _acquire(score, seed) for name, score in RULES.items()}
    random, entropy, epistemic = RULES
    return [
        Comparison(epistemic, other, measure, summary(curves[other]), summary(curves[epistemic]))
        for other in (random, entropy)
        for measure, summary in (("accuracy", lambda curve: curve[-1]), ("mean accuracy", _mean))
    ]


def _acquire(score: Score, seed: int) -> list[float]:
    data = digits.load(seed)
    images, labels = data.train.images, data.train.labels
    known, pool = rows_per_class(labels, INITIAL, torch.Generator().manual_seed(seed))
    accuracy = []
    for round_ in range(ROUNDS + 1):
        network = fit(classifier(64, digits.CLASSES, seed), images[known], labels[known])
        with torch.no_grad():
            accuracy.append(float(metrics.accuracy(network(data.test.images), data.test.labels)))
        scores = score(network, (images[known], labels[known]), images[pool], 100 * seed + round_)
        order = scores.argsort(descending=True)
        known, pool = torch.cat([known, pool[order[:ACQUIRED]]]), pool[order[ACQUIRED:]]
    return accuracy


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def of_rewards(seed: int) -> list[Comparison]:
    """Compare Thompson sampling with rules without posterior, by the mean reward.

    An arm is a digit, and its reward is 1 if it is the digit of the image, else 0. The reward is modeled by a linear
    regression on the pixels for each arm, fitted again after each round.
    """
    rewards = {name: _play(name, seed) for name in ("greedy", "ε-greedy", "Thompson sampling")}
    thompson = rewards.pop("Thompson sampling")
    return [Comparison("Thompson sampling", name, "mean reward", value, thompson) for name, value in rewards.items()]


def _play(rule: str, seed: int) -> float:
    images, labels = digits.all_images()
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)[: BANDIT_ROUNDS * CONTEXTS]
    inputs, targets = torch.empty(0, digits.CLASSES * 64), torch.empty(0, 1)
    earned = 0.0
    for rows in order.split(CONTEXTS):
        arms = _by_arm(images[rows])
        value = _values(rule, inputs, targets, arms, generator)
        chosen = value.argmax(dim=1)
        if rule == "ε-greedy":
            explored = torch.rand(CONTEXTS, generator=generator) < EXPLORED
            random = torch.randint(digits.CLASSES, (CONTEXTS,), generator=generator)
            chosen = torch.where(explored, random, chosen)
        reward = (chosen == labels[rows]).float()
        earned += float(reward.sum())
        inputs = torch.cat([inputs, arms[torch.arange(CONTEXTS), chosen]])
        targets = torch.cat([targets, reward[:, None]])
    return earned / len(order)


def _by_arm(images: Tensor) -> Tensor:
    """Return the inputs (N, C, 64 C) of all arms: the pixels in the columns of the arm, else 0."""
    return torch.einsum("nd,ac->nacd", images.flatten(1), torch.eye(digits.CLASSES)).flatten(2)


def _values(rule: str, inputs: Tensor, targets: Tensor, arms: Tensor, generator: torch.Generator) -> Tensor:
    """Return the values (N, C) of all arms, estimated from inputs and rewards so far; at random at the start."""
    if not len(inputs):
        return torch.rand(arms.shape[:2], generator=generator)
    model = ridge(inputs, targets)
    if rule != "Thompson sampling":
        with torch.no_grad():
            mean: Tensor = model(arms)[:, :, 0]
        return mean
    calibrated = calibrate(
        model, [(inputs, targets)], None, 0, likelihood="regression", tuning="evidence", temperature=False
    )
    samples = calibrated.joint_samples(arms.flatten(0, 1), 1, generator=generator)[-1]
    return samples.reshape(arms.shape[:2])
