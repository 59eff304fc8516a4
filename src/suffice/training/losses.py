"""Losses of a network with exits: functions `(outputs of every exit, labels) -> scalar`.

    summed       Σ_k ℓ_k                                                 the paper's (Huang et al. 2018)
    Weighted     Σ_k w_k ℓ_k
    Smoothed     Σ_k CE((1 − ε) onehot(y) + ε/C, softmax(z_k))
    Distilled    Σ_k ℓ_k + α T² Σ_{k<K} KL(softmax(z_K/T) ‖ softmax(z_k/T)),   the last exit as the teacher

ℓ is the mean over the batch of the loss of the likelihood:

    classification    −log softmax(f)_y                       nats
    binary            −log σ(f) if y = 1, −log σ(−f) if y = 0    nats
    multilabel        the mean over the labels of that of "binary"    nats
    regression        (y − f)², the mean over the outputs too    in the targets' unit squared
    heteroscedastic   ½(s + (y − μ)² exp(−s)) of f = (μ, s), the mean over the targets too    nats, ½ log 2π left out

Szegedy et al. 2016 (smoothed labels); Phuong and Lampert 2019 (distillation between exits; T² keeps its gradients on
the scale of the others, Hinton et al. 2015); Nix and Weigend 1994 (heteroscedastic). A custom loss with parameters has
to print them in its `repr`, as these do, since checkpoints compare losses by it. A loss for a single likelihood names
it in an attribute `likelihood`, as these do, and is refused for any other.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, kl_div, mse_loss

from suffice.calibration import likelihoods

Loss = Callable[[Sequence[Tensor], Tensor], Tensor]
"""Function from the outputs of K exits, (N, C) each, and labels as the likelihood reads them, to a scalar."""


def summed(outputs: Sequence[Tensor], labels: Tensor, likelihood: likelihoods.Name = "classification") -> Tensor:
    """Return the sum of the exits' losses under a likelihood."""
    return _exit_losses(outputs, labels, likelihood).sum()


@dataclass(frozen=True)
class Weighted:
    """Weighted sum of the exits' losses.

    Attributes:
        weights: Weights w, one for each of the K exits.
        likelihood: Likelihood of the outputs.
    """

    weights: Sequence[float]
    likelihood: likelihoods.Name = "classification"

    def __call__(self, outputs: Sequence[Tensor], labels: Tensor) -> Tensor:
        """Return the loss of the outputs (N, C) of K exits."""
        if len(outputs) != len(self.weights):
            raise ValueError(f"expected a weight for each of {len(outputs)} exits, got {len(self.weights)}")
        exit_losses = _exit_losses(outputs, labels, self.likelihood)
        return (exit_losses * exit_losses.new_tensor(self.weights)).sum()


@dataclass(frozen=True)
class Smoothed:
    """Sum of the exits' cross-entropies with smoothed labels.

    Attributes:
        smoothing: Probability ε that is spread evenly over all classes.
    """

    likelihood: ClassVar[likelihoods.Name] = "classification"
    smoothing: float = 0.1

    def __call__(self, logits: Sequence[Tensor], labels: Tensor) -> Tensor:
        """Return the loss of the logits (N, C) of K exits and labels (N,)."""
        return torch.stack([cross_entropy(exit_, labels, label_smoothing=self.smoothing) for exit_ in logits]).sum()


@dataclass(frozen=True)
class Distilled:
    """Sum of the exits' cross-entropies and of the divergences of the earlier exits from the last one.

    The last exit is the teacher; the divergences have no gradient with respect to its logits.

    Attributes:
        weight: Weight α of the divergences.
        temperature: Temperature T of both distributions.
    """

    likelihood: ClassVar[likelihoods.Name] = "classification"
    weight: float = 1.0
    temperature: float = 3.0

    def __call__(self, logits: Sequence[Tensor], labels: Tensor) -> Tensor:
        """Return the loss of the logits (N, C) of K exits and labels (N,)."""
        teacher = (logits[-1].detach() / self.temperature).log_softmax(dim=-1)
        students = [(exit_ / self.temperature).log_softmax(dim=-1) for exit_ in logits[:-1]]
        divergences = [kl_div(student, teacher, reduction="batchmean", log_target=True) for student in students]
        total = summed(logits, labels)
        return total + self.weight * self.temperature**2 * torch.stack(divergences).sum() if divergences else total


def each(outputs: Tensor, labels: Tensor, likelihood: likelihoods.Name) -> Tensor:
    """Return the loss (N,) float64 of one exit for each example."""
    pairs = zip(outputs.split(1), labels.split(1), strict=True)
    return torch.stack([_LOSSES[likelihood](output, label) for output, label in pairs]).double()


def is_numeric(likelihood: likelihoods.Name) -> bool:
    """Return whether the targets of a likelihood are numbers."""
    return likelihood in ("regression", "heteroscedastic")


def best_constant(outputs: Tensor, targets: Tensor, likelihood: likelihoods.Name) -> Tensor:
    """Return the outputs, like `outputs` (N, C), of the best prediction that does not depend on the input.

    They predict the frequencies of the classes, or the mean and the variance of the targets.
    """
    tiny = torch.finfo(outputs.dtype).tiny
    if likelihood == "classification":
        counts = targets.bincount(minlength=outputs.shape[1])
        return (counts / len(targets)).to(outputs).clamp_min(tiny).log().expand_as(outputs)
    values = targets.to(outputs).reshape(len(targets), -1)
    constant = values.mean(dim=0)
    if not is_numeric(likelihood):
        return constant.logit(eps=torch.finfo(outputs.dtype).eps).expand_as(outputs)
    if likelihood == "heteroscedastic":
        variance = values.var(dim=0, correction=0).clamp_min(tiny)
        constant = torch.cat([constant, variance.log()])
    return constant.expand_as(outputs)


def units(targets: Tensor, likelihood: likelihoods.Name) -> tuple[float, ...]:
    """Return the unit of each output: for a mean, the standard deviation of its targets, rounded to a power of two.

    A log-variance has the unit 1, and so has a mean whose targets do not differ. Classes have no units.
    """
    if not is_numeric(likelihood):
        return ()
    deviations = targets.double().reshape(len(targets), -1).std(dim=0, correction=0).tolist()
    means = [2.0 ** round(math.log2(deviation)) if deviation > 0 else 1.0 for deviation in deviations]
    return (*means, *([1.0] * len(means) if likelihood == "heteroscedastic" else []))


def check(loss: object, likelihood: likelihoods.Name) -> None:
    """Raise an error unless `loss` takes the outputs of all exits and fits the likelihood.

    Raises:
        TypeError: If it cannot be called with the outputs of all exits, such as torch's losses of a single output.
        ValueError: If it belongs to another likelihood.
    """
    takes_one_output = str(getattr(loss, "__module__", "")).startswith("torch.nn.")
    if isinstance(loss, type) or not callable(loss) or takes_one_output:
        raise TypeError(
            f"expected a loss of the outputs of all exits and the labels, such as "
            f"suffice.training.losses.Distilled(), got {loss!r}; omit it for the likelihood's own loss"
        )
    loss_likelihood = "classification" if loss is summed else getattr(loss, "likelihood", likelihood)
    if loss_likelihood != likelihood:
        raise ValueError(
            f"expected a loss for the likelihood of the training, {likelihood!r}, got {loss!r} for "
            f"{loss_likelihood!r}; pass Weighted(weights, likelihood), or omit the loss for the likelihood's own"
        )


def _exit_losses(outputs: Sequence[Tensor], labels: Tensor, likelihood: likelihoods.Name) -> Tensor:
    return torch.stack([_LOSSES[likelihood](exit_, labels) for exit_ in outputs])


def _binary(logits: Tensor, labels: Tensor) -> Tensor:
    return binary_cross_entropy_with_logits(logits[:, 0], labels.to(logits))


def _multilabel(logits: Tensor, labels: Tensor) -> Tensor:
    return binary_cross_entropy_with_logits(logits, labels.to(logits))


def _squared(outputs: Tensor, targets: Tensor) -> Tensor:
    return mse_loss(outputs, targets.to(outputs))


def _gaussian(outputs: Tensor, targets: Tensor) -> Tensor:
    mean, log_variance = outputs.chunk(2, dim=-1)
    squares = (targets.to(outputs) - mean).square()
    return (log_variance + squares * (-log_variance).exp()).mean() / 2


_LOSSES: dict[likelihoods.Name, Callable[[Tensor, Tensor], Tensor]] = {
    "classification": cross_entropy,
    "binary": _binary,
    "multilabel": _multilabel,
    "regression": _squared,
    "heteroscedastic": _gaussian,
}
