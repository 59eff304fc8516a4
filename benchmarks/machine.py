"""Peak speed of this machine, and peak memory of a call."""

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import torch

from suffice.utils.timing import interleaved


def ceilings() -> tuple[float, float]:
    """Measure multiply-adds per second of a large float32 matrix product, and bytes per second of a large copy."""
    a, b = torch.rand(2, 1536, 1536)
    source = torch.rand(1 << 26)
    target = torch.empty_like(source)
    times = interleaved({"product": lambda: a @ b, "copy": lambda: target.copy_(source)}, repeats=5)
    return 1536**3 / times["product"] * 1e3, 2 * 4 * source.numel() / times["copy"] * 1e3


def peak_bytes(call: Callable[[], object]) -> int:
    """Measure the peak of resident memory during a call, above that before the call, sampled every millisecond."""
    page, done = os.sysconf("SC_PAGE_SIZE"), threading.Event()
    before = peak = _resident(page)

    def watch() -> None:
        nonlocal peak
        while not done.is_set():
            peak = max(peak, _resident(page))
            time.sleep(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        call()
    finally:
        done.set()
        watcher.join()
    return peak - before


def peak_of_a_process(call: Callable[[], object]) -> int:
    """Measure the peak of resident memory of a new process that makes a call, libraries included.

    Args:
        call: A function at the top level of a module.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_peak_resident, call).result()


def _peak_resident(call: Callable[[], object]) -> int:
    call()
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])


def _resident(page: int) -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * page
