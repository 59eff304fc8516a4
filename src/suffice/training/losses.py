"""Losses of a network with exits: functions `(outputs of every exit, labels) -> scalar`.

    summed       Σ_k ℓ_k                                                 the paper's (Huang et al. 2018)
    Weighted     Σ_k w_k ℓ_k
    Smoothed     Σ_k of the cross-entropies against (1 − ε) onehot(y) + ε/C
    Distilled    Σ_k ℓ_k + α T² Σ_{k<K} KL(softmax(z_K/T) ‖ softmax(z_k/T)),   the last exit as the teacher

ℓ is the mean over the batch of what the likelihood of the outputs says:

    classification    −log softmax(f)_y                       nats
    binary            −log σ(f) if y = 1, −log σ(−f) if y = 0    nats
    regression        (y − f)², the mean over the outputs too    in the targets' unit squared
    heteroscedastic   ½(s + (y − μ)² exp(−s)) of f = (μ, s), the mean over the targets too    nats, ½ log 2π left out

Szegedy et al. 2016 (smoothed labels); Phuong and Lampert 2019 (distillation between exits; T² keeps its gradients on
the scale of the others, Hinton et al. 2015); Nix and Weigend 1994 (heteroscedastic). A loss of your own that has
parameters shows them in its `repr`, as these do: a checkpoint knows it by that. Where it is of one likelihood only it
says so in an attribute `likelihood`, as these do, and is refused for another.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, kl_div, mse_loss

from suffice.calibration import likelihoods

Loss = Callable[[Sequence[Tensor], Tensor], Tensor]
"""From the outputs of K exits, (N, C) each, and labels as their likelihood reads them, to a scalar."""


def summed(outputs: Sequence[Tensor], labels: Tensor, likelihood: likelihoods.Name = "classification") -> Tensor:
    """Sum over the exits of their losses under a likelihood."""
    return _each(outputs, labels, likelihood).sum()


@dataclass(frozen=True)
class Weighted:
    """Sum over the exits with a weight for each.

    Attributes:
        weights: w, K numbers.
        likelihood: of the outputs.
    """

    weights: Sequence[float]
    likelihood: likelihoods.Name = "classification"

    def __call__(self, outputs: Sequence[Tensor], labels: Tensor) -> Tensor:
        """The loss of outputs (N, C) of K exits."""
        if len(outputs) != len(self.weights):
            raise ValueError(f"expected a weight for each of {len(outputs)} exits, got {len(self.weights)}")
        each = _each(outputs, labels, self.likelihood)
        return (each * each.new_tensor(self.weights)).sum()


@dataclass(frozen=True)
class Smoothed:
    """`summed` of classes, each label sharing some of its probability with all of them alike.

    Attributes:
        smoothing: ε.
    """

    likelihood: ClassVar[likelihoods.Name] = "classification"
    smoothing: float = 0.1

    def __call__(self, logits: Sequence[Tensor], labels: Tensor) -> Tensor:
        """The loss of logits (N, C) of K exits and labels (N,)."""
        return torch.stack([cross_entropy(exit_, labels, label_smoothing=self.smoothing) for exit_ in logits]).sum()


@dataclass(frozen=True)
class Distilled:
    """`summed` of classes, and every earlier exit also learns the last one's probabilities, without gradient to it.

    Attributes:
        weight: α.
        temperature: T of both distributions.
    """

    likelihood: ClassVar[likelihoods.Name] = "classification"
    weight: float = 1.0
    temperature: float = 3.0

    def __call__(self, logits: Sequence[Tensor], labels: Tensor) -> Tensor:
        """The loss of logits (N, C) of K exits and labels (N,)."""
        teacher = (logits[-1].detach() / self.temperature).log_softmax(dim=-1)
        students = [(exit_ / self.temperature).log_softmax(dim=-1) for exit_ in logits[:-1]]
        apart = [kl_div(student, teacher, reduction="batchmean", log_target=True) for student in students]
        total = summed(logits, labels)
        return total + self.weight * self.temperature**2 * torch.stack(apart).sum() if apart else total


def check(loss: object, likelihood: likelihoods.Name) -> None:
    """Raise an error unless it is a loss, and of outputs of that likelihood if it is of one only.

    Raises:
        TypeError: for what cannot be called with the outputs of all exits, such as torch's losses of one output.
        ValueError: for a loss of another likelihood.
    """
    of_one_output = str(getattr(loss, "__module__", "")).startswith("torch.nn.")
    if isinstance(loss, type) or not callable(loss) or of_one_output:
        raise TypeError(
            f"expected a loss of the outputs of all exits and the labels, such as "
            f"suffice.training.losses.Distilled(), got {loss!r}; leave it out for the likelihood's own"
        )
    own = "classification" if loss is summed else getattr(loss, "likelihood", likelihood)
    if own != likelihood:
        raise ValueError(
            f"expected a loss of {likelihood!r}, as the training's likelihood is, got {loss!r} of {own!r}; pass "
            "Weighted(weights, likelihood), or no loss for the likelihood's own"
        )


def _each(outputs: Sequence[Tensor], labels: Tensor, likelihood: likelihoods.Name) -> Tensor:
    return torch.stack([_LOSSES[likelihood](exit_, labels) for exit_ in outputs])


def _binary(logits: Tensor, labels: Tensor) -> Tensor:
    return binary_cross_entropy_with_logits(logits[:, 0], labels.to(logits))


def _squared(outputs: Tensor, targets: Tensor) -> Tensor:
    return mse_loss(outputs, targets.to(outputs))


def _gaussian(outputs: Tensor, targets: Tensor) -> Tensor:
    mean, log_variance = outputs.chunk(2, dim=-1)
    squares = (targets.to(outputs) - mean).square()
    return (log_variance + squares * (-log_variance).exp()).mean() / 2


_LOSSES: dict[likelihoods.Name, Callable[[Tensor, Tensor], Tensor]] = {
    "classification": cross_entropy,
    "binary": _binary,
    "regression": _squared,
    "heteroscedastic": _gaussian,
}
