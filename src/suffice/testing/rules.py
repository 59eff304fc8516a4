"""Parts that the checks share: a rule that is violated, and what must stay as it was."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from suffice.network import State, batch_size, select
from suffice.utils.nest import tree_leaves


def violated(rule: str, expected: str, got: object) -> NoReturn:
    """Raise an AssertionError that names a rule, what it expects and what was found."""
    raise AssertionError(f"rule {rule!r}: expected {expected}, got {got}")


@contextmanager
def obeying(rule: str) -> Iterator[None]:
    """Raise an AssertionError that names a rule if the body raises any other exception."""
    try:
        yield
    except AssertionError:
        raise
    except Exception as error:  # the code under test may raise anything
        raise AssertionError(f"rule {rule!r}: {type(error).__name__}: {error}") from error


def check_batch(x: State, least: int = 2) -> int:
    """Return the number of examples of a batch, and raise a ValueError if there are too few to compare."""
    size = batch_size(x)
    if size < least:
        raise ValueError(f"expected a batch of at least {least} different examples to check with, got {size}")
    return size


def orders(size: int) -> dict[str, Tensor]:
    """Return selections of the rows of a batch by which its examples get other companions, or none."""
    rows = torch.arange(size)
    return {"in reverse order": rows.flip(0), "without the first": rows[1:], "the last alone": rows[-1:]}


@contextmanager
def default_generator_unused(what: str) -> Iterator[None]:
    """Check that the body draws no random number from torch's default generator."""
    before = torch.get_rng_state()
    yield
    if not torch.equal(before, torch.get_rng_state()):
        violated("leaves torch's default generator alone", f"no random number from it by {what}", "a changed state")


@contextmanager
def inputs_unchanged(what: str, *values: Any) -> Iterator[None]:
    """Check that the body writes into no tensor of the given nests."""
    tensors = [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
    before = [tensor.clone() for tensor in tensors]
    yield
    if not all(map(equal_bytes, tensors, before)):
        violated("leaves its inputs unchanged", f"{what} as it was", "other values after the call")


def equal_bytes(a: Any, b: Any) -> bool:
    """Return whether two leaves of a nest are the same: tensors with equal values, NaN included, or equal objects."""
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
        return bool(a == b)
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    same = a == b
    return bool((same | (a.isnan() & b.isnan()) if a.is_floating_point() or a.is_complex() else same).all())


def equal_nests(a: Any, b: Any) -> bool:
    """Return whether all leaves of two nests are the same."""
    left, right = tree_leaves(a), tree_leaves(b)
    return len(left) == len(right) and all(map(equal_bytes, left, right))


def rows_of(values: Tensor, rows: Tensor) -> Tensor:
    """Select rows of a tensor on its device."""
    selected: Tensor = select(values, rows)
    return selected


@dataclass(frozen=True)
class ModelRecord:
    """Record of all that must stay as it was while a model is looked at.

    Attributes:
        tensors: Values of parameters and buffers by name.
        modes: Training flag of each module by name.
        hooks: Number of hooks of each module by name.
        gradients: Gradient of each parameter by name, and whether it is required.
    """

    tensors: dict[str, Tensor]
    modes: dict[str, bool]
    hooks: dict[str, int]
    gradients: dict[str, tuple[bool, Tensor | None]]

    @classmethod
    def of(cls, model: nn.Module) -> "ModelRecord":
        """Record a model."""
        named = [*model.named_parameters(), *model.named_buffers()]
        return cls(
            {name: tensor.detach().clone() for name, tensor in named},
            {name: module.training for name, module in model.named_modules()},
            {name: _num_hooks(module) for name, module in model.named_modules()},
            {
                name: (parameter.requires_grad, None if parameter.grad is None else parameter.grad.clone())
                for name, parameter in model.named_parameters()
            },
        )

    def check(self, model: nn.Module) -> None:
        """Raise an AssertionError that names what differs from a model now."""
        now = ModelRecord.of(model)
        for kind, before, after in (
            ("the weights and buffers", self.tensors, now.tensors),
            ("the training modes", self.modes, now.modes),
            ("the hooks", self.hooks, now.hooks),
            ("the gradients", self.gradients, now.gradients),
        ):
            changed = sorted(name for name in {*before, *after} if not equal_nests(before.get(name), after.get(name)))
            if changed:
                names = ", ".join(repr(name) for name in changed[:3])
                violated("leaves the model as it was", f"{kind} unchanged", f"a change of {names}")


def _num_hooks(module: nn.Module) -> int:
    return len(module._forward_hooks) + len(module._forward_pre_hooks) + len(module._backward_hooks)
