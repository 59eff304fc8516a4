"""Check that a model is still the one that something was fitted for, and reusable twins of it.

Hashing the weights at each call would cost more than the call. So they are hashed again only where a comparison that
costs next to nothing finds a change; `suffice.twin.snapshot` states which changes it detects.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Generic, TypeVar, cast

from torch import nn

from suffice.storage.fingerprint import Structure, check_fingerprint, check_structure, structure
from suffice.twin import Twin, check_compiled
from suffice.twin.snapshot import AttributeSnapshot, WeightSnapshot

M = TypeVar("M", bound=nn.Module)
"""Type of the modules that twins are made of."""


def whole_model(model: M) -> list[M]:
    """Return the model as the only module that twins are made of."""
    return [model]


class Seal(Generic[M]):
    """Hash of a model's weights, its structure, and its twins as long as both are unchanged.

    Args:
        model: Model that something was fitted for.
        network_hash: `fingerprint` of its weights at fitting.
        split: Function from the model to the modules that twins are made of, which run one after another. It is called
            again when the model has changed, so that a module that replaces another one is run.
        trusted: Whether the weights are known to have that hash now, apart from their type. If False, the first check
            hashes them, and every check hashes weights without a version counter.

    Attributes:
        structure: Structure of the model when the seal was made.
    """

    def __init__(
        self,
        model: nn.Module,
        network_hash: str,
        split: Callable[[Any], Sequence[M]] = whole_model,
        *,
        trusted: bool = False,
    ) -> None:
        self._model, self._hash, self._split, self._trusted = model, network_hash, split, trusted
        self.structure: Structure = structure(model)
        self._verified: _VerifiedModel[M] | None = _VerifiedModel(model, self._split) if trusted else None

    def check(self) -> "_VerifiedModel[M]":
        """Check that the model is unchanged since fitting, and return its verified state.

        Raises:
            ValueError: If its weights have another hash, or a module of `torch.nn` in it is another.
            TypeError: If part of the model cannot be copied.
        """
        before = self._verified
        if before is not None and before.is_unchanged() and self._detects_changes(before):
            return before
        now = _VerifiedModel(self._model, self._split)
        if before is None or not now.weights.continues(before.weights) or not self._detects_changes(before):
            check_fingerprint(self._model, self._hash)
        check_structure(self._model, self.structure)
        self._verified = now
        return now

    def check_weights(self) -> None:
        """Raise a ValueError as `check` does, but always hash every weight."""
        check_fingerprint(self._model, self._hash)
        check_structure(self._model, self.structure)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without twins and snapshots, which do not apply to a copy of the model."""
        return {**vars(self), "_verified": self._verified is not None and self._verified.is_unchanged()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._verified = _VerifiedModel(self._model, self._split) if state["_verified"] else None

    def _detects_changes(self, verified: "_VerifiedModel[M]") -> bool:
        """Return whether a change of the weights since then would have been detected."""
        return verified.weights.have_versions or self._trusted

    @contextmanager
    def twin(self, part: int = 0) -> Iterator[M]:
        """Yield a twin of a part in evaluation mode, which no other thread uses until the block ends.

        The model is checked before its first part.

        Args:
            part: Index of the part.

        Raises:
            ValueError: As `check` does.
            TypeError: If part of the model cannot be copied.
            RuntimeError: If a compiled or scripted module, which cannot be copied, is in training mode.
        """
        verified = self.check() if part == 0 or self._verified is None else self._verified
        if verified.compiled:
            check_compiled(self._model)
        twin, snapshot = verified.acquire(part)
        with twin.running() as model:
            yield model
        if snapshot is not None and snapshot.is_unchanged():  # else the pass has changed the twin, or raised
            verified.free[part].append((twin, snapshot))


class _VerifiedModel(Generic[M]):
    """State of a model at the time of a check, and twins of it that are not in use."""

    def __init__(self, model: nn.Module, split: Callable[[Any], Sequence[M]]) -> None:
        self.weights = WeightSnapshot(model)
        twin_of_model = Twin(model, track=True)
        self.attributes = twin_of_model.source_snapshot()
        self.compiled = twin_of_model.copier.compiled
        self._reusable = twin_of_model.copier.trackable
        self._parts = split(model)  # last, so that a change meanwhile is detected by the next check
        self.free: list[deque[tuple[Twin[M], AttributeSnapshot]]] = [deque() for _ in self._parts]
        if self._reusable and self._parts[0] is model:
            self.free[0].append((cast(Twin[M], twin_of_model), twin_of_model.copy_snapshot()))

    def is_unchanged(self) -> bool:
        """Return whether the model is still in this state."""
        return self.attributes.is_unchanged() and self.weights.is_unchanged()

    def acquire(self, part: int) -> tuple[Twin[M], AttributeSnapshot | None]:
        """Return a twin, and its snapshot if it may be used again while unchanged, else None."""
        try:
            return self.free[part].pop()
        except IndexError:
            twin = Twin(self._parts[part], track=True)
        # If the model changed while it was copied, the twin is not one of the verified state.
        return twin, twin.copy_snapshot() if self._reusable and self.is_unchanged() else None


def check_unchanged(model: nn.Module | None, network_hash: str, expected: Structure) -> nn.Module:
    """Return the model that a fitted object is loaded for, after checking its weights and structure.

    Args:
        model: Argument `network` of `load`.
        network_hash: `fingerprint` of its weights at fitting.
        expected: Structure at fitting.

    Raises:
        TypeError: If the model is missing.
        ValueError: If its weights have another hash, or a module of `torch.nn` in it is another.
    """
    if model is None:
        raise TypeError("expected the model that this was fitted for, got None; pass suffice.load(path, network=…)")
    check_fingerprint(model, network_hash)
    check_structure(model, expected)
    return model
