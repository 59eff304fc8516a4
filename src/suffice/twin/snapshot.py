"""Snapshots of a model that detect later changes at next to no cost.

Every comparison detects

- a module, parameter, buffer, hook or other attribute that was added, removed or replaced, also within lists, dicts
  and plain objects of the model, and a changed class of one of them;
- every change in place that increases a tensor's version counter: writes under `no_grad`, by an optimizer, or by
  `load_state_dict`;
- a replaced memory of a tensor, as by `tensor.data = …` or `vector_to_parameters`;
- a change that bypasses the version counter, as by `tensor.data.mul_(2)` or through a NumPy view, if it reaches one of
  about eight evenly spaced elements of a weight, starting with the first. Every operation on all elements does.

A change that bypasses the counter and leaves those elements alone, such as one of a single row, is not detected.
"""

from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_NUM_SAMPLES = 8
"""Approximate number of elements of each weight that are compared."""

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integer type in which elements are compared bit by bit, by their size in bytes."""

_get_attributes = attrgetter("__dict__")


class AttributeSnapshot:
    """Attributes of objects, items of containers, and version counters of tensors at one time.

    Args:
        objects: Objects, each with a copy of its `__dict__`.
        containers: Containers, each with a copy.
        tensors: Tensors whose version counters are compared.
        compare_modes: Whether a changed `training` attribute counts as a change.
    """

    def __init__(
        self,
        objects: Iterable[tuple[Any, dict[str, Any]]],
        containers: Iterable[tuple[Any, Any]],
        tensors: Iterable[Tensor],
        *,
        compare_modes: bool,
    ) -> None:
        objects, containers = list(objects), list(containers)
        self._objects, self._attributes = [value for value, _ in objects], [attributes for _, attributes in objects]
        self._classes = [*map(type, self._objects)]
        self._tensors, self._compare_modes = list(tensors), compare_modes
        self._empty = [container for container, items in containers if not items]
        self._full = [container for container, items in containers if items]
        self._items = [items for _, items in containers if items]
        self._versions = _versions(self._tensors)

    def is_unchanged(self) -> bool:
        """Return whether objects, containers and tensors are as they were."""
        try:
            now = [*map(_get_attributes, self._objects)]
            same = self._classes == [*map(type, self._objects)]
            same = same and (now == self._attributes or self._differs_in_modes_only(now))
            same = same and self._full == self._items and not any(self._empty)
        except Exception:  # comparing tensors, arrays and objects of other libraries may raise anything
            return False
        return same and self._versions == _versions(self._tensors)

    def _differs_in_modes_only(self, now: list[dict[str, Any]]) -> bool:
        """Return whether only ignored modes have changed; the new ones are stored then."""
        if self._compare_modes:
            return False
        for attributes, before in zip(now, self._attributes, strict=True):
            if "training" in before and "training" in attributes:
                before["training"] = attributes["training"]
        return now == self._attributes


class WeightSnapshot:
    """Parameters and buffers of a model at one time: their version counters, memory and some of their bits.

    Attributes:
        have_versions: Whether all of them have a version counter; those made in inference mode have none.
    """

    def __init__(self, model: nn.Module) -> None:
        self._tensors = [*model.parameters(), *model.buffers()]
        self._versions = _versions(self._tensors)
        self.have_versions = self._versions is not None
        self._dense = [tensor for tensor in self._tensors if _is_dense(tensor)]
        self._addresses = [tensor.data_ptr() for tensor in self._dense]
        self._sample = _BitSample(self._dense)

    def is_unchanged(self) -> bool:
        """Return whether these tensors have not changed."""
        return (
            self._versions == _versions(self._tensors)
            and self._addresses == [tensor.data_ptr() for tensor in self._dense]
            and self._sample.is_unchanged()
        )

    def continues(self, earlier: "WeightSnapshot") -> bool:
        """Return whether these are the tensors of an earlier snapshot, unchanged since."""
        return [*map(id, self._tensors)] == [*map(id, earlier._tensors)] and earlier.is_unchanged()


class _BitSample:
    """Bits of some elements of each tensor."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        groups: dict[tuple[torch.device, int], list[Tensor]] = {}
        with torch.inference_mode(False), torch.no_grad():
            for tensor in tensors:
                if tensor.numel() and not tensor.is_meta:
                    groups.setdefault((tensor.device, tensor.itemsize), []).append(_sample_view(tensor))
        self._on_cpu = [[tensor.numpy() for tensor in group] for key, group in groups.items() if key[0].type == "cpu"]
        self._elsewhere = [group for key, group in groups.items() if key[0].type != "cpu"]
        self._bits = self._read_bits()

    def is_unchanged(self) -> bool:
        return self._read_bits() == self._bits

    def _read_bits(self) -> list[bytes]:
        elsewhere = [torch.cat(group).cpu().numpy().tobytes() for group in self._elsewhere]
        return [np.concatenate(group).tobytes() for group in self._on_cpu] + elsewhere


def _sample_view(tensor: Tensor) -> Tensor:
    """Return evenly spaced elements of a dense tensor, from the first on, as an integer view of its memory."""
    integers = tensor.detach().view(_INTEGERS[tensor.itemsize])
    step = max(1, tensor.numel() // _NUM_SAMPLES)
    return integers.as_strided((-(-tensor.numel() // step),), (step,))


def _is_dense(tensor: Tensor) -> bool:
    """Return whether the elements fill one piece of memory without gaps, with their own bits."""
    if type(tensor) not in (Tensor, nn.Parameter) or tensor.layout != torch.strided or tensor.is_quantized:
        return False
    order = sorted(range(tensor.ndim), key=tensor.stride, reverse=True)
    has_own_bits = not tensor.is_conj() and not tensor.is_neg()
    return tensor.permute(order).is_contiguous() and has_own_bits and tensor.itemsize in _INTEGERS


def _versions(tensors: Sequence[Tensor]) -> list[int] | None:
    try:
        return [tensor._version for tensor in tensors]
    except RuntimeError:  # a tensor made in inference mode has no version counter
        return None
