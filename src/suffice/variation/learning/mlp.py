"""Small ReLU network (multilayer perceptron), as pure functions of its weights: matrix, bias, matrix, bias, ….

It is trained by AdamW. The result is a running average of the weights, weighted towards the last steps, which removes
most of the labels' noise, at the epoch with the least validation loss. Shamir and Zhang 2013 (the average), He et al.
2015 (the initialization).
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from suffice.utils import threads

Loss = Callable[[Tensor, Tensor], Tensor]
"""Function from outputs (N, O) and labels (N, …) to their mean loss."""

_BATCH = 256
_LEARNING_RATE = 1e-3
_WEIGHT_DECAY = 1e-2
_PATIENCE = 10
"""Number of epochs without a better validation loss after which fitting stops."""

_FLOOR = 1e-4
"""Least variance, in units of the mean label."""


def forward(weights: Sequence[Tensor], inputs: Tensor) -> Tensor:
    """Compute outputs (N, O) of inputs (N, K)."""
    values = inputs
    for i in range(0, len(weights) - 2, 2):
        values = functional.linear(values, weights[i], weights[i + 1]).relu_()
    return functional.linear(values, weights[-2], weights[-1])


def variance(outputs: Tensor) -> Tensor:
    """Return variances (N,), in units of the mean label, of outputs (N, 1): their exponential plus a floor."""
    return outputs[:, 0].exp() + _FLOOR


def qlike(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return the mean of log v + s²/v, minimized by v = E[s²] (Patton 2011), for outputs (N, 1) and labels s² (N,)."""
    v = variance(outputs)
    return (v.log() + labels / v).mean()


def macs(weights: Sequence[Tensor]) -> int:
    """Return the multiply-adds per example."""
    return sum(matrix.numel() for matrix in weights[::2])


def initial(
    inputs: int, hidden: Sequence[int], outputs: int, device: torch.device, generator: torch.Generator | None
) -> list[Tensor]:
    """Draw initial weights.

    The last matrix is small, so that training starts at outputs near zero.

    Args:
        inputs: Number K of inputs.
        hidden: Widths of the hidden layers.
        outputs: Number O of outputs.
        device: Device of the weights.
        generator: Generator of the weights; None for the default generator of torch.
    """
    place = device if generator is None else generator.device
    weights = []
    for fan_in, fan_out in pairwise([inputs, *hidden, outputs]):
        normal = torch.randn(fan_out, fan_in, dtype=torch.float32, device=place, generator=generator)
        matrix = (normal * math.sqrt(2 / fan_in)).to(device)
        weights += [matrix, torch.zeros_like(matrix[:, 0])]
    weights[-2] *= 0.1
    return weights


def train(
    weights: list[Tensor],
    training: tuple[Tensor, Tensor],
    validation: tuple[Tensor, Tensor],
    loss: Loss,
    epochs: int,
    generator: torch.Generator | None,
) -> list[Tensor]:
    """Train a network with early stopping.

    Args:
        weights: Initial weights; they are changed in place.
        training: Inputs (N, K) and labels (N, …).
        validation: Inputs (M, K) and labels (M, …) for early stopping.
        loss: Mean loss of outputs and labels.
        epochs: Maximum number of passes over the training rows.
        generator: Generator of the order of rows; None for the default generator of torch.

    Returns:
        The running average of the weights after the epoch with the least validation loss.
    """
    inputs, labels = training
    device = None if generator is None else generator.device
    for weight in weights:
        weight.requires_grad_()
    average = [weight.detach().clone() for weight in weights]
    best, least_loss, epochs_without_gain, steps = average, math.inf, 0, 0
    optimizer = torch.optim.AdamW(weights, lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY, fused=True)
    for _ in range(epochs):
        order = torch.randperm(len(inputs), device=device, generator=generator).to(inputs.device)
        with threads.one_thread_if_small(threads.matmul_work(_BATCH, weights)):
            for index in order.split(_BATCH):
                optimizer.zero_grad()
                loss(forward(weights, inputs[index]), labels[index]).backward()
                optimizer.step()
                steps += 1
                for mean, weight in zip(average, weights, strict=True):
                    mean.lerp_(weight.detach(), 10 / (steps + 10))
        with threads.one_thread_if_small(threads.matmul_work(len(validation[0]), average)):
            validation_loss = float(loss(forward(average, validation[0]), validation[1]))
        epochs_without_gain += 1
        if validation_loss < least_loss:
            best, least_loss, epochs_without_gain = [mean.clone() for mean in average], validation_loss, 0
        if epochs_without_gain >= _PATIENCE:
            break
    return best
