"""Threads are pinned, to one unless OMP_NUM_THREADS says how many: contended OpenMP processes run many times slower.

Tests that compare bytes or tolerances are marked `numerics`, by what their own code calls, so that a new one cannot
forget it: `make test-numerics` runs them under other instruction sets and numbers of threads.
"""

import inspect
import os
import re

import pytest
import torch

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))

COMPARES = re.compile(r"\b(assert_close|assert_allclose|assert_same|approx|torch\.equal|map\(torch\.equal)\b")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and COMPARES.search(inspect.getsource(item.function)):
            item.add_marker(pytest.mark.numerics)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
