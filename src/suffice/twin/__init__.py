"""Private copy of a model (a twin) that shares the model's weights.

Reading activations, tracing or switching modes changes a model: modes are set, hooks registered, passes aborted. On
the model itself this would affect other threads, and tensors that a forward stores would stay behind. So it is done
on a twin, which one pass at a time uses; the model is only read.

    parameters                                   shared with the model
    buffers and other tensors                    copied; copies share memory with each other as the originals do
    modules, containers, methods, objects        copied; copies refer to each other as the originals do
    hooks                                        the user's own, called as in any pass, with the twin's modules
    functions with a closure                     see `suffice.twin.callables`
    compiled and scripted parts                  shared; they run as they are, in evaluation mode
    objects that cannot be copied (locks, files) shared; refused by name if a module can be reached through them

A parameter that a forward pass may write into (`max_norm` of an embedding) is copied as well.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

import torch
from torch import nn

from suffice.twin.callables import THREAD_STATE
from suffice.twin.copier import MARK, Copier
from suffice.twin.kinds import is_compiled
from suffice.twin.snapshot import AttributeSnapshot
from suffice.utils.modes import default_modes
from suffice.utils.threads import apply_thread_count

M = TypeVar("M", bound=nn.Module)


class Twin(Generic[M]):
    """Copy of a model in evaluation mode, or in the model's own modes.

    Args:
        model: Model to copy; it is only read.
        evaluation: Whether to put the copy into evaluation mode.
        track: Whether to keep the records for `source_snapshot` and `copy_snapshot`.

    Attributes:
        model: The copy.
        copier: Record of what was copied.

    Raises:
        TypeError: If part of the model cannot be copied.
        RuntimeError: If `evaluation` is set and a compiled or scripted part is in training mode.
    """

    def __init__(self, model: M, *, evaluation: bool = True, track: bool = False) -> None:
        to_evaluation = evaluation and any(module.training for module in model.modules())
        if to_evaluation:
            check_compiled(model)
        with torch.inference_mode(False), torch.no_grad():
            self.copier = Copier(model, _written_parameters(model, to_evaluation), track=track)
            self.model: M = self.copier.copied
            if to_evaluation:
                self.model.eval()

    @contextmanager
    def running(self) -> Iterator[M]:
        """Yield the copy for passes in this thread."""
        apply_thread_count()
        before, THREAD_STATE.runs_twin = THREAD_STATE.runs_twin, True
        try:
            yield self.model
        finally:
            THREAD_STATE.runs_twin = before

    def source_snapshot(self) -> AttributeSnapshot:
        """Return a snapshot of the original at copying, which does not compare its modes."""
        copier = self.copier
        objects = [(value, attributes) for value, attributes, _ in copier.objects]
        containers = [(container, items) for container, items, _ in copier.containers]
        return AttributeSnapshot(
            objects, containers, [tensor for tensor, _ in copier.tensors.pairs], compare_modes=False
        )

    def copy_snapshot(self) -> AttributeSnapshot:
        """Return a snapshot of the copy as it is now."""
        copier = self.copier
        objects = [(copied, dict(vars(copied))) for *_, copied in copier.objects]
        containers = [(copied, copied.copy()) for *_, copied in copier.containers]
        return AttributeSnapshot(
            objects, containers, [copied for _, copied in copier.tensors.pairs], compare_modes=True
        )


def is_twin(module: nn.Module) -> bool:
    """Return whether a module is part of a twin, so that modes and hooks on it affect no other thread."""
    return MARK in module.__dict__


def copy_parameters(model: nn.Module, modules: Iterable[nn.Module]) -> None:
    """Replace the shared parameters of some modules of a twin by copies, for passes in training mode.

    Such passes may write into parameters. Parameters that several modules share stay shared among them.

    Args:
        model: Twin.
        modules: Modules of the twin; the parameters of their submodules are copied too.
    """
    parameters = {parameter for module in modules for parameter in module.parameters()}
    copies = {p: nn.Parameter(p.detach().clone(), p.requires_grad) for p in parameters}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            module._parameters[name] = copies.get(parameter, parameter)  # type: ignore[arg-type]


@contextmanager
def inference(model: M) -> Iterator[M]:
    """Yield a twin in evaluation mode, without gradients and outside the caller's autocast and inference mode.

    A model that is a twin already is yielded itself.

    Raises:
        TypeError: If part of the model cannot be copied.
    """
    with default_modes(), torch.no_grad():
        if is_twin(model):
            yield model
            return
        with Twin(model).running() as twin:
            yield twin


def check_compiled(model: nn.Module) -> None:
    """Raise a RuntimeError if a compiled or scripted part, whose mode cannot be set on a copy, is in training mode."""
    for name, module in model.named_modules():
        if is_compiled(module) and module.training:
            where = f"its compiled or scripted part {name!r}" if name else "a compiled or scripted one"
            raise RuntimeError(
                f"expected a model that can be copied into evaluation mode, got {where} in training mode; call eval() "
                "on the model, or pass it as it was before it was compiled"
            )


def _written_parameters(model: nn.Module, to_evaluation: bool) -> list[nn.Parameter]:
    """Return the parameters that a pass, or putting a copy into evaluation mode, may write into."""
    modules = [
        module
        for module in model.modules()
        if getattr(module, "max_norm", None) is not None
        or (to_evaluation and (type(module).train is not nn.Module.train or type(module).eval is not nn.Module.eval))
    ]
    return [parameter for module in modules for parameter in module.parameters(recurse=False)]
