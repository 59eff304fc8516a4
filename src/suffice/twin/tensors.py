"""Copies of tensors that share memory with each other as the originals do."""

import torch
from torch import Tensor, nn


class Tensors:
    """Tensors that were copied, and their copies.

    Attributes:
        pairs: of an original and its copy, in the order of copying.
    """

    def __init__(self) -> None:
        self.pairs: list[tuple[Tensor, Tensor]] = []
        self._storages: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}  # by the original's

    def copy(self, tensor: Tensor) -> Tensor:
        """A copy; a dense one lies in a copy of the original's memory."""
        new = self._in_memory(tensor) if _is_dense(tensor) else tensor.detach().clone()
        if tensor.requires_grad:
            new.requires_grad_()
        self.pairs.append((tensor, new))
        return new

    def parameter(self, parameter: nn.Parameter) -> nn.Parameter:
        """A copy of a parameter, as one."""
        new = nn.Parameter(self.copy(parameter), parameter.requires_grad)
        self.pairs[-1] = parameter, new
        return new

    def _in_memory(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        _, copied = self._storages.get(storage._cdata, (storage, None))
        new = tensor.detach()
        if copied is None and storage.nbytes() == tensor.nbytes:  # of the whole storage, as it lies
            new = new.clone()
            copied = new.untyped_storage()
        else:
            copied = copied or storage.clone()
            new = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
            new.set_(copied, tensor.storage_offset(), tensor.size(), tensor.stride())
        self._storages[storage._cdata] = storage, copied
        return new


def _is_dense(tensor: Tensor) -> bool:
    plain = type(tensor) in (Tensor, nn.Parameter) and tensor.layout == torch.strided and not tensor.is_quantized
    return plain and not tensor.is_conj() and not tensor.is_neg()
