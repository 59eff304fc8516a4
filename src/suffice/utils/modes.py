"""Context managers that shield results from torch's ambient modes: autocast, `no_grad` and inference mode."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

_KINDS = ("cpu", "cuda", "mps", "xpu")


@contextmanager
def full_precision() -> Iterator[None]:
    """Disable any surrounding `torch.autocast`: operations run in the type of their inputs."""
    kinds = [kind for kind in _KINDS if torch.is_autocast_enabled(kind)]
    with ExitStack() as stack:
        for kind in kinds:
            stack.enter_context(torch.autocast(kind, enabled=False))
        yield


@contextmanager
def default_modes() -> Iterator[None]:
    """Disable autocast and inference mode and enable gradients, as a fit needs."""
    with full_precision(), torch.inference_mode(False), torch.enable_grad():
        yield
