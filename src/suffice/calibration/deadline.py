"""Answers of exit after exit, for as long as the next one is expected before a deadline."""

import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from suffice.utils.timing import synchronize


def in_time(answers: Iterator[Any], cumulative: Sequence[int], seconds: float, device: torch.device) -> Iterator[Any]:
    """The answers of K exits that are expected in time, the first one in any case.

    Args:
        answers: first exit to last, each computed when it is asked for.
        cumulative: multiply-adds up to each exit, K numbers; the next answer is expected to take its share of the
            time that those before it took.
        seconds: from the first answer being asked for.
        device: that computes, and is waited for.
    """
    started = time.perf_counter()
    for k, answer in enumerate(answers):
        synchronize(device)
        computed = time.perf_counter() - started
        yield answer
        if k + 1 == len(cumulative):
            return
        ahead = computed * (cumulative[k + 1] / cumulative[k] - 1)
        if time.perf_counter() - started + ahead > seconds:
            return
