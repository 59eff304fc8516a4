"""What this machine can do at best, and what a call needs of its memory."""

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import torch

from suffice.utils.timing import interleaved


def ceilings() -> tuple[float, float]:
    """Multiply-adds per second of a large float32 matrix product, and bytes per second of a large copy."""
    a, b = torch.rand(2, 1536, 1536)
    source = torch.rand(1 << 26)
    target = torch.empty_like(source)
    times = interleaved({"product": lambda: a @ b, "copy": lambda: target.copy_(source)}, repeats=5)
    return 1536**3 / times["product"] * 1e3, 2 * 4 * source.numel() / times["copy"] * 1e3


def peak_bytes(call: Callable[[], object]) -> int:
    """Most memory, above what is resident before, that the process holds during a call; sampled each ms."""
    page, done = os.sysconf("SC_PAGE_SIZE"), threading.Event()
    before = most = _resident(page)

    def watch() -> None:
        nonlocal most
        while not done.is_set():
            most = max(most, _resident(page))
            time.sleep(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        call()
    finally:
        done.set()
        watcher.join()
    return most - before


def peak_of_a_process(call: Callable[[], object]) -> int:
    """Most memory resident in a new process that makes a call, a function of a module; libraries included."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_most_resident, call).result()


def _most_resident(call: Callable[[], object]) -> int:
    call()
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])


def _resident(page: int) -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * page
