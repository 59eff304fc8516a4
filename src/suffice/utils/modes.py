"""Ambient modes of torch that numbers of the library do not depend on: autocast, `no_grad` and inference mode."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

_KINDS = ("cpu", "cuda", "mps", "xpu")


@contextmanager
def full_precision() -> Iterator[None]:
    """Operations in the type of their inputs, whatever `torch.autocast` there is around."""
    kinds = [kind for kind in _KINDS if torch.is_autocast_enabled(kind)]
    with ExitStack() as stack:
        for kind in kinds:
            stack.enter_context(torch.autocast(kind, enabled=False))
        yield


@contextmanager
def default_modes() -> Iterator[None]:
    """The same, and gradients, and tensors that outlast `torch.inference_mode`: what a fit needs, wherever it is."""
    with full_precision(), torch.inference_mode(False), torch.enable_grad():
        yield
