"""Predictions of exit after exit until a deadline."""

import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from suffice.utils.timing import synchronize


def until_deadline(
    predictions: Iterator[Any], cumulative: Sequence[int], seconds: float, device: torch.device
) -> Iterator[Any]:
    """Yield predictions while the next one is expected before the deadline; the first one always.

    Args:
        predictions: Lazily computed predictions of K exits, first to last.
        cumulative: Multiply-adds up to each exit, K numbers. The expected time of an exit is proportional to them.
        seconds: Deadline in seconds after the first prediction is requested.
        device: Device of the computation, which is synchronized after each exit.
    """
    started = time.perf_counter()
    for k, prediction in enumerate(predictions):
        synchronize(device)
        computed = time.perf_counter() - started
        yield prediction
        if k + 1 == len(cumulative):
            return
        expected = computed * (cumulative[k + 1] / cumulative[k] - 1)
        if time.perf_counter() - started + expected > seconds:
            return
