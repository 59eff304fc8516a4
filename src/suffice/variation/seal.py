"""Whether a model still has the weights that something was learned about, for next to nothing.

Hashing weights at each call would cost more than the call. Tensors count their changes in place, so the hash is taken
again only when a tensor was replaced or its count has moved. Changes through `tensor.data` are not counted.
"""

from torch import nn

from suffice.network import check_fingerprint


class Seal:
    """The hash of a model's weights, and the state of its tensors when that was last seen to be right."""

    def __init__(self, network_hash: str) -> None:
        self.network_hash = network_hash
        self._seen: object = None

    def check(self, model: nn.Module) -> None:
        """Raise a ValueError unless the model's weights have the hash."""
        now = _state(model)
        if now is None or now != self._seen:
            check_fingerprint(model, self.network_hash)
            self._seen = now


def unchanged(model: nn.Module | None, network_hash: str) -> nn.Module:
    """The model that something learned is loaded for.

    Raises:
        TypeError: if it is missing.
        ValueError: if its weights have another hash.
    """
    if model is None:
        raise TypeError(
            "expected the model that the estimator was fitted for, got None; pass suffice.load(path, network=…)"
        )
    check_fingerprint(model, network_hash)
    return model


def _state(model: nn.Module) -> object:
    """Identity and count of changes of every tensor; None for tensors that do not count."""
    tensors = [*model.parameters(), *model.buffers()]
    if any(tensor.is_inference() for tensor in tensors):
        return None
    return [(id(tensor), tensor.data_ptr(), tensor._version) for tensor in tensors]
