"""Threads are pinned, to one unless OMP_NUM_THREADS says how many: contended OpenMP processes run many times slower."""

import os

import pytest
import torch

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
