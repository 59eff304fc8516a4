"""Whether a model still has the weights that something was learned about, for next to nothing.

Hashing weights at each call would cost more than the call. Tensors count their changes in place, so the hash is taken
again only when a module or a tensor was replaced or a count has moved. Changes through `tensor.data` are not counted.
"""

from torch import Tensor, nn

from suffice.network import check_fingerprint


class Seal:
    """The hash of a model's weights, and the state of its tensors when that was last seen to be right.

    Args:
        model: what something was learned about.
        network_hash: `fingerprint` of its weights then.
        trusted: whether they are known to be those now, or the same in another type; else the first check hashes them,
            and each check those that do not count their changes.

    Attributes:
        modules: all of the model's, when it was last seen to be right.
    """

    def __init__(self, model: nn.Module, network_hash: str, *, trusted: bool = False) -> None:
        self._model, self._hash, self._trusted = model, network_hash, trusted
        self.modules = list(model.modules())
        self._seen = self._state() if trusted else None

    def check(self) -> None:
        """Raise a ValueError unless the model's weights have the hash."""
        now = self._state()
        if now != self._seen or (now is None and not self._trusted):
            check_fingerprint(self._model, self._hash)
            self.modules = list(self._model.modules())
            self._seen = self._state()

    def _state(self) -> object:
        """Identity of every module, identity and count of changes of every tensor; None where some do not count."""
        children: list[nn.Module | None] = []
        held: list[Tensor | None] = []
        for module in self.modules:
            children += module._modules.values()
            held += module._parameters.values()
            held += module._buffers.values()
        tensors = [tensor for tensor in held if tensor is not None]
        try:
            counts = [tensor._version for tensor in tensors]
        except RuntimeError:  # of tensors made in inference mode
            return None
        return [*map(id, children)], [*map(id, tensors)], [*map(Tensor.data_ptr, tensors)], counts


def unchanged(model: nn.Module | None, network_hash: str) -> nn.Module:
    """The model that something learned is loaded for.

    Raises:
        TypeError: if it is missing.
        ValueError: if its weights have another hash.
    """
    if model is None:
        raise TypeError("expected the model that this was fitted for, got None; pass suffice.load(path, network=…)")
    check_fingerprint(model, network_hash)
    return model
