"""A private copy of a model to look at: modules of its own, on the model's weights.

Whoever looks at a model sets modes, registers hooks, stops a pass or maps it. On the model itself other threads would
meet all that, and what a forward keeps would stay behind. So it happens on a twin, which one pass at a time has to
itself, and the model is only ever read.

    parameters                                   the model's own
    buffers and other tensors                    copies, which share memory with each other as the originals do
    modules, containers, methods, objects        copies that refer to each other as the originals do
    hooks                                        the user's own, called as in an ordinary pass, with the twin's modules
    functions with a closure                     see `suffice.twin.callables`
    compiled and scripted parts                  the model's own; they run as they are, in evaluation mode
    what can be there only once (locks, files)   the model's own; refused by name if a module can be reached through it

A parameter that a forward is known to write into (`max_norm` of an embedding) is copied as well.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

import torch
from torch import nn

from suffice.twin.callables import THREAD
from suffice.twin.copier import MARK, Copier
from suffice.twin.kinds import is_compiled
from suffice.twin.snapshot import Attributes
from suffice.utils.modes import default_modes

M = TypeVar("M", bound=nn.Module)


class Twin(Generic[M]):
    """A copy of a model in evaluation mode, or in the modes that the model is in.

    Args:
        model: only read.
        evaluation: whether the copy is put into evaluation mode.
        noted: whether `as_copied` and `as_made` are wanted.

    Attributes:
        model: the copy.
        copier: what was copied.

    Raises:
        TypeError: if part of the model cannot be copied.
        RuntimeError: if it is to be in evaluation mode and a compiled or scripted part is not.
    """

    def __init__(self, model: M, *, evaluation: bool = True, noted: bool = False) -> None:
        training = evaluation and any(module.training for module in model.modules())
        if training:
            check_compiled(model)
        with torch.inference_mode(False), torch.no_grad():
            self.copier = Copier(model, _written(model, training), noted=noted)
            self.model: M = self.copier.copied
            if training:
                self.model.eval()

    @contextmanager
    def running(self) -> Iterator[M]:
        """The copy, for passes in this thread."""
        before, THREAD.running = THREAD.running, True
        try:
            yield self.model
        finally:
            THREAD.running = before

    def as_copied(self) -> Attributes:
        """What the original was like; its modes may change."""
        copier = self.copier
        objects = [(value, held) for value, held, _ in copier.objects]
        containers = [(container, held) for container, held, _ in copier.containers]
        return Attributes(objects, containers, [tensor for tensor, _ in copier.tensors.pairs], modes=False)

    def as_made(self) -> Attributes:
        """What the copy is like."""
        copier = self.copier
        objects = [(new, dict(vars(new))) for *_, new in copier.objects]
        containers = [(new, new.copy()) for *_, new in copier.containers]
        return Attributes(objects, containers, [new for _, new in copier.tensors.pairs], modes=True)


def is_twin(module: nn.Module) -> bool:
    """Whether a module is part of a twin, so that modes and hooks on it are seen by nobody else."""
    return MARK in module.__dict__


def own_parameters(model: nn.Module, modules: Iterable[nn.Module]) -> None:
    """Give modules of a twin copies of their parameters, for passes that may write into them as training does.

    Args:
        model: the twin.
        modules: of it; parameters of modules within them are copied too.
    """
    parameters = {parameter for module in modules for parameter in module.parameters()}
    own = {p: nn.Parameter(p.detach().clone(), p.requires_grad) for p in parameters}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            module._parameters[name] = own.get(parameter, parameter)  # type: ignore[arg-type]


@contextmanager
def inference(model: M) -> Iterator[M]:
    """A twin in evaluation mode; no gradients, autocast or inference mode of the caller within.

    A twin is taken for its own.

    Raises:
        TypeError: if part of the model cannot be copied.
    """
    with default_modes(), torch.no_grad():
        if is_twin(model):
            yield model
            return
        with Twin(model).running() as twin:
            yield twin


def check_compiled(model: nn.Module) -> None:
    """Raise a RuntimeError if a compiled or scripted part, which runs as it is, is in training mode."""
    for name, module in model.named_modules():
        if is_compiled(module) and module.training:
            where = f"its compiled or scripted part {name!r}" if name else "a compiled or scripted one"
            raise RuntimeError(
                f"expected a model that can be copied into evaluation mode, got {where} in training mode; call eval() "
                "on the model, or pass it as it was before it was compiled"
            )


def _written(model: nn.Module, training: bool) -> list[nn.Parameter]:
    """Parameters that a pass, or putting a copy into evaluation mode, may write into."""
    modules = [
        module
        for module in model.modules()
        if getattr(module, "max_norm", None) is not None
        or (training and (type(module).train is not nn.Module.train or type(module).eval is not nn.Module.eval))
    ]
    return [parameter for module in modules for parameter in module.parameters(recurse=False)]
