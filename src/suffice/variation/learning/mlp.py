"""A small ReLU network on features, written out: weights are a list of tensors, matrix, bias, matrix, bias, ….

Trained by AdamW; kept is the running average of the weights, which leans on the last steps and so takes most of the
labels' noise out of them, at the epoch where its loss on unseen rows was least. Shamir and Zhang 2013 (the average),
He et al. 2015 (the start).
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from suffice.utils import threads

Loss = Callable[[Tensor, Tensor], Tensor]
"""From outputs (N, O) and labels (N, …) to a mean."""

_BATCH = 256
_LEARNING_RATE = 1e-3
_WEIGHT_DECAY = 1e-2
_PATIENCE = 10
"""Epochs without a better validation loss after which fitting stops."""

_FLOOR = 1e-4
"""Least variance that is told apart, in units of the labels' mean."""


def forward(weights: Sequence[Tensor], inputs: Tensor) -> Tensor:
    """Outputs (N, O) of inputs (N, K)."""
    values = inputs
    for i in range(0, len(weights) - 2, 2):
        values = functional.linear(values, weights[i], weights[i + 1]).relu_()
    return functional.linear(values, weights[-2], weights[-1])


def variance(outputs: Tensor) -> Tensor:
    """Variances (N,) in units of the labels' mean, of outputs (N, 1): their exponential, above a floor."""
    return outputs[:, 0].exp() + _FLOOR


def qlike(outputs: Tensor, labels: Tensor) -> Tensor:
    """Mean of log v + s²/v, whose minimiser is E[s²] (Patton 2011); labels s² (N,)."""
    v = variance(outputs)
    return (v.log() + labels / v).mean()


def macs(weights: Sequence[Tensor]) -> int:
    """Multiply-adds per example."""
    return sum(matrix.numel() for matrix in weights[::2])


def initial(
    inputs: int, hidden: Sequence[int], outputs: int, device: torch.device, generator: torch.Generator | None
) -> list[Tensor]:
    """Random weights, the last matrix small so that fitting starts at outputs near zero."""
    place = device if generator is None else generator.device
    weights = []
    for fan_in, fan_out in pairwise([inputs, *hidden, outputs]):
        drawn = torch.randn(fan_out, fan_in, dtype=torch.float32, device=place, generator=generator)
        matrix = (drawn * math.sqrt(2 / fan_in)).to(device)
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
    """Fit to inputs (N, K) and labels (N, …); the average of the weights where its validation loss was least."""
    inputs, labels = training
    device = None if generator is None else generator.device
    for weight in weights:
        weight.requires_grad_()
    average = [weight.detach().clone() for weight in weights]
    best, least, waited, steps = average, math.inf, 0, 0
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
            reached = float(loss(forward(average, validation[0]), validation[1]))
        waited += 1
        if reached < least:
            best, least, waited = [mean.clone() for mean in average], reached, 0
        if waited >= _PATIENCE:
            break
    return best
