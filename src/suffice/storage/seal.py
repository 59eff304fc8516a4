"""A model that something was learned about: whether it is still that, and twins of it to run.

Hashing weights at each call would cost more than the call. So the hash is taken again only where something has changed
by a comparison that costs next to nothing; `suffice.twin.snapshot` says what that notices, and what not.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Generic, TypeVar, cast

from torch import nn

from suffice.storage.fingerprint import check_fingerprint
from suffice.storage.structure import Structure, check_structure, structure
from suffice.twin import Twin, check_compiled
from suffice.twin.snapshot import Attributes, Weights

M = TypeVar("M", bound=nn.Module)
"""What there are twins of."""


class Seal(Generic[M]):
    """The hash of a model's weights, its structure, and its twins while both are right.

    Args:
        model: what something was learned about.
        network_hash: `fingerprint` of its weights then.
        parts: what there are twins of: the model, or modules of it that are run one by one.
        trusted: whether the weights are known to be those now, or the same in another type; else the first check
            hashes them, and each check those that do not count their changes.

    Attributes:
        structure: of the model when this was made.
    """

    def __init__(
        self,
        model: nn.Module,
        network_hash: str,
        parts: Sequence[M],
        *,
        trusted: bool = False,
    ) -> None:
        self._model, self._hash, self._parts, self._trusted = model, network_hash, list(parts), trusted
        self.structure: Structure = structure(model)
        self._seen: _Seen[M] | None = _Seen(model, self._parts) if trusted else None

    def check(self) -> "_Seen[M]":
        """What the model was when it was last seen to be right, which it is.

        Raises:
            ValueError: if its weights have another hash, or modules of torch's in it are others.
            TypeError: if part of the model cannot be copied.
        """
        before = self._seen
        if before is not None and before.holds() and self._told(before):
            return before
        now = _Seen(self._model, self._parts)
        if before is None or not now.weights.same(before.weights) or not self._told(before):
            check_fingerprint(self._model, self._hash)
        check_structure(self._model, self.structure)
        self._seen = now
        return now

    def check_weights(self) -> None:
        """Raise a ValueError as `check` does, with every weight hashed whatever was seen before."""
        check_fingerprint(self._model, self._hash)
        check_structure(self._model, self.structure)

    def __getstate__(self) -> dict[str, Any]:
        """Without twins, and without what was seen, which is another in a copy."""
        return {**vars(self), "_seen": self._seen is not None and self._seen.holds()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._seen = _Seen(self._model, self._parts) if state["_seen"] else None

    def _told(self, seen: "_Seen[M]") -> bool:
        """Whether changes of the weights would have been told."""
        return seen.weights.counted or self._trusted

    @contextmanager
    def twin(self, part: int = 0) -> Iterator[M]:
        """A twin, in evaluation mode, of the model or of a part, which nobody else has until the body ends.

        The model is checked before its first part.

        Raises:
            ValueError: as `check`.
            TypeError: if part of the model cannot be copied.
            RuntimeError: if a compiled or scripted part, of which there is no copy, is in training mode.
        """
        seen = self.check() if part == 0 or self._seen is None else self._seen
        if seen.compiled:
            check_compiled(self._model)
        twin, made = seen.taken(part)
        with twin.running() as model:
            yield model
        if made is not None and made.hold():  # else a pass, or an exception, has left something on it
            seen.free[part].append((twin, made))


class _Seen(Generic[M]):
    """A model as it was at some time, and twins of it that are free."""

    def __init__(self, model: nn.Module, parts: Sequence[M]) -> None:
        self.weights = Weights(model)
        whole = Twin(model, noted=True)
        self.attributes = whole.as_copied()
        self.compiled = whole.copier.compiled
        self._lasting = whole.copier.lasting
        self._parts = parts
        self.free: list[deque[tuple[Twin[M], Attributes]]] = [deque() for _ in parts]
        if self._lasting and parts[0] is model:
            self.free[0].append((cast(Twin[M], whole), whole.as_made()))

    def holds(self) -> bool:
        """Whether the model is still as it was."""
        return self.attributes.hold() and self.weights.hold()

    def taken(self, part: int) -> tuple[Twin[M], Attributes | None]:
        """A twin, and what it has to be like to be used again, None if it cannot be."""
        try:
            return self.free[part].pop()
        except IndexError:
            twin = Twin(self._parts[part], noted=True)
        # A model that changed while it was copied is not what was seen.
        return twin, twin.as_made() if self._lasting and self.holds() else None


def unchanged(model: nn.Module | None, network_hash: str, expected: Structure) -> nn.Module:
    """The model that something learned is loaded for.

    Args:
        model: what was given to `load`.
        network_hash: `fingerprint` of its weights then.
        expected: its structure then.

    Raises:
        TypeError: if it is missing.
        ValueError: if its weights have another hash, or modules of torch's in it are others.
    """
    if model is None:
        raise TypeError("expected the model that this was fitted for, got None; pass suffice.load(path, network=…)")
    check_fingerprint(model, network_hash)
    check_structure(model, expected)
    return model
