"""Random numbers of a pass from a given generator, which leaves torch's default generator untouched.

The operations of a model draw from torch's default generator, which all threads share, and few modules accept another
one. On the CPU a dispatch mode passes the given generator to each operation. Fused kernels of other devices accept no
generator: there the device's own generator is seeded for the pass and restored afterwards, so two threads that do this
at once on one device disturb each other.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from suffice.utils.nest import tree_leaves


@contextmanager
def draw_from(generator: torch.Generator, *inputs: Any) -> Iterator[None]:
    """Make the operations of the body draw from a generator.

    Args:
        generator: Generator on the CPU; other devices are seeded from it.
        inputs: Nests of tensors on the devices that the body computes on.
    """
    devices = {leaf.device for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor) and leaf.is_cuda}
    states = [(device, torch.cuda.get_rng_state(device)) for device in devices]
    try:
        for device, _ in states:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        with _GeneratorMode(generator):
            yield
    finally:
        for device, state in states:
            torch.cuda.set_rng_state(state, device)


class _GeneratorMode(TorchDispatchMode):
    """Pass a generator to random operations on the CPU that have none."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.generator = generator

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags or not _on_cpu(args, kwargs):
            return func(*args, **kwargs)
        overload = _with_generator(func)
        if overload is not None:
            return overload(*args, **{**kwargs, "generator": kwargs.get("generator") or self.generator})
        if func._schema.name in ("aten::rand_like", "aten::randn_like"):  # earlier versions of torch lack the overload
            new = torch.empty_like(*args, **kwargs)
            draw = new.uniform_ if func._schema.name == "aten::rand_like" else new.normal_
            return draw(generator=self.generator)
        return func(*args, **kwargs)


@cache
def _with_generator(func: Any) -> Any:
    """Return the overload of an operation that takes a generator, or None."""
    names = {argument.name for argument in func._schema.arguments}
    if "generator" in names:
        return func
    packet = func.overloadpacket
    overloads = (getattr(packet, name) for name in packet.overloads())
    wanted = names | {"generator"}
    return next((o for o in overloads if {argument.name for argument in o._schema.arguments} == wanted), None)


def _on_cpu(args: Any, kwargs: dict[str, Any]) -> bool:
    devices = {leaf.device.type for leaf in tree_leaves(args) if isinstance(leaf, Tensor)}
    device = kwargs.get("device")
    return (devices or {"cpu" if device is None else torch.device(device).type}) == {"cpu"}
