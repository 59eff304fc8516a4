"""Timing of functions in interleaved runs, and synchronization of asynchronous devices."""

import statistics
import time
from collections.abc import Callable, Mapping

import torch


def interleaved(functions: Mapping[str, Callable[[], object]], repeats: int = 9) -> dict[str, float]:
    """Return the median milliseconds of each function, run in turn after one round of warm-up.

    Interleaving keeps ratios fair when the speed of the machine drifts. Pin the number of threads before the call.
    """
    times: dict[str, list[float]] = {name: [] for name in functions}
    for round_ in range(repeats + 1):
        for name, function in functions.items():
            started = time.perf_counter()
            function()
            if round_:
                times[name].append(1e3 * (time.perf_counter() - started))
    return {name: statistics.median(values) for name, values in times.items()}


def synchronize(device: torch.device) -> None:
    """Wait until a device has finished its queued work, so that elapsed time includes it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
