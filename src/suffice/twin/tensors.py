"""Copies of tensors that share memory with each other as the originals do."""

import torch
from torch import Tensor, nn


class TensorCopies:
    """Copies of tensors, in which views of one storage stay views of one storage.

    Attributes:
        pairs: Each original and its copy, in the order of copying.
    """

    def __init__(self) -> None:
        self.pairs: list[tuple[Tensor, Tensor]] = []
        # By the address of the original storage: the original, which keeps the address in use, and its copy.
        self._storages: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}

    def copy(self, tensor: Tensor) -> Tensor:
        """Return a copy of a tensor; a dense one is a view of a copy of the original's storage."""
        copied = self._copy_view(tensor) if _is_dense(tensor) else tensor.detach().clone()
        if tensor.requires_grad:
            copied.requires_grad_()
        self.pairs.append((tensor, copied))
        return copied

    def copy_parameter(self, parameter: nn.Parameter) -> nn.Parameter:
        """Return a copy of a parameter as a parameter."""
        copied = nn.Parameter(self.copy(parameter), parameter.requires_grad)
        self.pairs[-1] = parameter, copied
        return copied

    def _copy_view(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        _, copied_storage = self._storages.get(storage._cdata, (storage, None))
        copied = tensor.detach()
        if copied_storage is None and storage.nbytes() == tensor.nbytes:  # the tensor fills its storage
            copied = copied.clone()
            copied_storage = copied.untyped_storage()
        else:
            copied_storage = copied_storage or storage.clone()
            copied = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
            copied.set_(copied_storage, tensor.storage_offset(), tensor.size(), tensor.stride())
        self._storages[storage._cdata] = storage, copied_storage
        return copied


def _is_dense(tensor: Tensor) -> bool:
    plain = type(tensor) in (Tensor, nn.Parameter) and tensor.layout == torch.strided and not tensor.is_quantized
    return plain and not tensor.is_conj() and not tensor.is_neg()
