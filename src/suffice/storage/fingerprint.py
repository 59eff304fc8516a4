"""The hash of a model's weights, which ties what was learned about a network to that network."""

import hashlib
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn


def fingerprint(model: nn.Module) -> str:
    """SHA-256 of a model's weights and buffers: names, shapes, types, bytes; whatever the device, compiled or not."""
    return _digest(model.state_dict())


def fingerprint_of_rows(model: nn.Module, parameters: Iterable[nn.Parameter], rows: int) -> str:
    """Return the `fingerprint` of a model as if some of its parameters had their first `rows` rows only."""
    state, cut = dict(model.state_dict()), {id(parameter) for parameter in parameters}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) in cut:
            state[name] = state[name][:rows]
    return _digest(state)


COMPILED = "_orig_mod."
"""What `torch.compile` puts into the names of a module's weights."""


def _digest(state: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    plain = {name.replace(COMPILED, ""): tensor for name, tensor in state.items()}
    for name, tensor in sorted(plain.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype};".encode())
        for part in _dense(tensor.detach()):
            digest.update(part.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _dense(tensor: Tensor) -> list[Tensor]:
    """Dense tensors that a tensor consists of."""
    if tensor.layout == torch.strided:
        return [tensor]
    if tensor.layout == torch.sparse_coo:
        tensor = tensor.coalesce()
        return [tensor.indices(), tensor.values()]
    by_rows = tensor.layout in (torch.sparse_csr, torch.sparse_bsr)
    where = [tensor.crow_indices(), tensor.col_indices()] if by_rows else [tensor.ccol_indices(), tensor.row_indices()]
    return [*where, tensor.values()]


def check_fingerprint(model: nn.Module, expected: str) -> None:
    """Raise a ValueError unless `fingerprint(model)` is the one expected."""
    found = fingerprint(model)
    if found != expected:
        raise ValueError(
            f"expected a network whose weights have the hash {expected[:12]}…, got {found[:12]}…; load the "
            "weights that were used then, or calibrate and fit again for these"
        )
