"""Configuration of all tests: number of threads, the marker `numerics`, and counts of tried cases.

Torch runs on OMP_NUM_THREADS threads, one by default, as contended OpenMP processes run many times slower. Tests that
compare bytes or tolerances are marked `numerics` automatically, by the functions that they call; `make test-numerics`
runs them under other instruction sets and numbers of threads.
"""

import inspect
import os
import re
from collections import Counter
from collections.abc import Callable
from functools import cache

import pytest
import torch

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))

COMPARES = re.compile(r"\b(assert_close|assert_allclose|assert_same|approx|torch\.equal|map\(torch\.equal)\b")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and compares(item.function):
            item.add_marker(pytest.mark.numerics)


@cache
def compares(function: Callable[..., object]) -> bool:
    return COMPARES.search(inspect.getsource(function)) is not None


TRIED = "tried: "


@pytest.fixture
def tried(record_property: Callable[[str, object], None]) -> Callable[[str, int], None]:
    """Return a function that counts tried cases by name; the sums over all tests are printed at the end."""
    return lambda what, count: record_property(f"{TRIED}{what}", count)


def pytest_terminal_summary(terminalreporter: "pytest.TerminalReporter") -> None:
    sums: Counter[str] = Counter()
    for report in terminalreporter.getreports("passed"):
        sums.update({name: count for name, count in report.user_properties if name.startswith(TRIED)})
    for name, count in sums.items():
        terminalreporter.line(f"{count:>9,} {name.removeprefix(TRIED)}")


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
