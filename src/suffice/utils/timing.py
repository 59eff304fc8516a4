"""The stopwatch: of ways taken in turn, and of devices that work behind the caller's back."""

import statistics
import time
from collections.abc import Callable, Mapping

import torch


def interleaved(ways: Mapping[str, Callable[[], object]], repeats: int = 9) -> dict[str, float]:
    """Median milliseconds of each way of doing something, the ways taken in turn after one round of warm-up.

    Taking turns keeps ratios fair when the machine's speed drifts. Pin the threads yourself.
    """
    times: dict[str, list[float]] = {name: [] for name in ways}
    for round_ in range(repeats + 1):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            if round_:
                times[name].append(1e3 * (time.perf_counter() - started))
    return {name: statistics.median(values) for name, values in times.items()}


def synchronize(device: torch.device) -> None:
    """Wait for what a device has still to do, so that a clock means something."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
