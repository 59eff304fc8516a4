"""Ambient modes of torch that numbers of the library do not depend on: autocast and inference mode."""

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
def ordinary() -> Iterator[None]:
    """The same, and tensors that outlast `torch.inference_mode`, if that is around; gradients as they were."""
    with ExitStack() as stack:
        stack.enter_context(full_precision())
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.no_grad())
        yield
