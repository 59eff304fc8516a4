"""Random numbers of a pass from a generator of its own: those of torch, which all threads share, stay as they are.

Operations of a model draw from torch's default generator, and few of them can be given another. Inside a fused kernel
no generator reaches at all, so on other devices than the processor the device's own is seeded, and put back afterwards;
two threads that do so at once on one device would draw from each other's.
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
def drawn(generator: torch.Generator, *inputs: Any) -> Iterator[None]:
    """Let operations in the body draw from a generator.

    Args:
        generator: on the CPU; on other devices a seed is drawn from it.
        inputs: nests of tensors on the devices that the body computes on.
    """
    devices = {leaf.device for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor) and leaf.is_cuda}
    states = [(device, torch.cuda.get_rng_state(device)) for device in devices]
    try:
        for device, _ in states:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        with _Drawn(generator):
            yield
    finally:
        for device, state in states:
            torch.cuda.set_rng_state(state, device)


class _Drawn(TorchDispatchMode):
    """Gives a generator to operations on the CPU that draw without one."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.generator = generator

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags or not _on_cpu(args, kwargs):
            return func(*args, **kwargs)
        found = _with_generator(func)
        if found is not None:
            return found(*args, **{**kwargs, "generator": kwargs.get("generator") or self.generator})
        if func._schema.name in ("aten::rand_like", "aten::randn_like"):  # of earlier versions of torch
            new = torch.empty_like(*args, **kwargs)
            draw = new.uniform_ if func._schema.name == "aten::rand_like" else new.normal_
            return draw(generator=self.generator)
        return func(*args, **kwargs)


@cache
def _with_generator(func: Any) -> Any:
    """The form of an operation that takes a generator, if there is one."""
    names = {argument.name for argument in func._schema.arguments}
    if "generator" in names:
        return func
    packet = func.overloadpacket
    others = (getattr(packet, name) for name in packet.overloads())
    wanted = names | {"generator"}
    return next((o for o in others if {argument.name for argument in o._schema.arguments} == wanted), None)


def _on_cpu(args: Any, kwargs: dict[str, Any]) -> bool:
    devices = {leaf.device.type for leaf in tree_leaves(args) if isinstance(leaf, Tensor)}
    made = kwargs.get("device")
    return (devices or {"cpu" if made is None else torch.device(made).type}) == {"cpu"}
