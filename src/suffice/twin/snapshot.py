"""What a model was like, to be told from what it is like now for next to nothing.

At every comparison is noticed

- a module, parameter, buffer, hook or other attribute that was added, removed or replaced, also in lists, dicts and
  plain objects of the model, and another class of one of them;
- every change in place that a tensor counts: what is written under `no_grad`, by an optimizer or by `load_state_dict`;
- other memory in the place of a tensor's, as `tensor.data = …` and `vector_to_parameters` put it;
- a change past the count, as `tensor.data.mul_(2)` or a NumPy view of the tensor makes, to one of some eight elements
  of each weight, evenly spaced from the first on: so whatever is done to all the elements of a tensor.

Not noticed is a change past the count that spares those elements, such as one to a single row of a table.
"""

from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_ELEMENTS = 8
"""Of each weight, about."""

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Types to compare bits in, by bytes an element."""


_ATTRIBUTES = attrgetter("__dict__")


class Attributes:
    """What objects held, and how often tensors among that had been written into.

    Args:
        objects: objects, and a copy of the `__dict__` of each.
        containers: containers, and a copy of each.
        tensors: whose counts are compared.
        modes: whether other modes of modules count as a change.
    """

    def __init__(
        self,
        objects: Iterable[tuple[Any, dict[str, Any]]],
        containers: Iterable[tuple[Any, Any]],
        tensors: Iterable[Tensor],
        *,
        modes: bool,
    ) -> None:
        objects, containers = list(objects), list(containers)
        self._objects, self._seen = [value for value, _ in objects], [seen for _, seen in objects]
        self._kinds = [*map(type, self._objects)]
        self._tensors, self._modes = list(tensors), modes
        self._empty = [container for container, held in containers if not held]
        self._full = [container for container, held in containers if held]
        self._held = [held for _, held in containers if held]
        self._counts = _counts(self._tensors)

    def hold(self) -> bool:
        """Whether all are as they were."""
        try:
            now = [*map(_ATTRIBUTES, self._objects)]
            same = self._kinds == [*map(type, self._objects)] and (now == self._seen or self._in_other_modes(now))
            same = same and self._full == self._held and not any(self._empty)
        except Exception:  # of any kind, as tensors, arrays and other people's objects raise when they are compared
            return False
        return same and self._counts == _counts(self._tensors)

    def _in_other_modes(self, now: list[dict[str, Any]]) -> bool:
        """Whether modules differ in their modes alone, which are then remembered if those are no change."""
        if self._modes:
            return False
        for attributes, seen in zip(now, self._seen, strict=True):
            if "training" in seen and "training" in attributes:
                seen["training"] = attributes["training"]
        return now == self._seen


class Weights:
    """Which tensors the parameters and buffers of a model are, how often they were written into, some of their bits.

    Attributes:
        counted: whether all of them count their changes, as those made in inference mode do not.
    """

    def __init__(self, model: nn.Module) -> None:
        self._tensors = [*model.parameters(), *model.buffers()]
        self._counts = _counts(self._tensors)
        self.counted = self._counts is not None
        self._dense = [tensor for tensor in self._tensors if _is_dense(tensor)]
        self._places = [tensor.data_ptr() for tensor in self._dense]
        self._sample = _Sample(self._dense)

    def hold(self) -> bool:
        """Whether these tensors have not changed."""
        return (
            self._counts == _counts(self._tensors)
            and self._places == [tensor.data_ptr() for tensor in self._dense]
            and self._sample.holds()
        )

    def same(self, earlier: "Weights") -> bool:
        """Whether these are the tensors of before, unchanged since."""
        return [*map(id, self._tensors)] == [*map(id, earlier._tensors)] and earlier.hold()


class _Sample:
    """The bits of some elements of each tensor."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        groups: dict[tuple[torch.device, int], list[Tensor]] = {}
        with torch.inference_mode(False), torch.no_grad():
            for tensor in tensors:
                if tensor.numel() and not tensor.is_meta:
                    groups.setdefault((tensor.device, tensor.itemsize), []).append(_some(tensor))
        self._here = [[tensor.numpy() for tensor in group] for key, group in groups.items() if key[0].type == "cpu"]
        self._elsewhere = [group for key, group in groups.items() if key[0].type != "cpu"]
        self._bits = self._now()

    def holds(self) -> bool:
        return self._now() == self._bits

    def _now(self) -> list[bytes]:
        elsewhere = [torch.cat(group).cpu().numpy().tobytes() for group in self._elsewhere]
        return [np.concatenate(group).tobytes() for group in self._here] + elsewhere


def _some(tensor: Tensor) -> Tensor:
    """Some elements of a dense tensor, evenly spaced from the first on, as integers in its memory."""
    integers = tensor.detach().view(_INTEGERS[tensor.itemsize])
    step = max(1, tensor.numel() // _ELEMENTS)
    return integers.as_strided((-(-tensor.numel() // step),), (step,))


def _is_dense(tensor: Tensor) -> bool:
    """Whether the elements fill one piece of memory, bit by bit as they are."""
    if type(tensor) not in (Tensor, nn.Parameter) or tensor.layout != torch.strided or tensor.is_quantized:
        return False
    order = sorted(range(tensor.ndim), key=tensor.stride, reverse=True)
    whole = tensor.permute(order).is_contiguous() and not tensor.is_conj() and not tensor.is_neg()
    return whole and tensor.itemsize in _INTEGERS


def _counts(tensors: Sequence[Tensor]) -> list[int] | None:
    try:
        return [tensor._version for tensor in tensors]
    except RuntimeError:  # of tensors made in inference mode
        return None
