"""A network as it is served: as it was calibrated, or not at all.

Its weights are those that were calibrated and it is in evaluation mode, both asked at every use; its outputs are
finite, and in the type that posteriors are served in.
"""

import torch
from torch import Tensor

from suffice.batches import placement
from suffice.network import ExitNetwork, State, check_finite
from suffice.seal import Seal


class Served:
    """A network that refuses to answer otherwise than it was calibrated.

    Args:
        network: put in eval mode.
        network_hash: `fingerprint` of its weights, which are known to be those.
    """

    def __init__(self, network: ExitNetwork, network_hash: str) -> None:
        self.network = network.eval()
        self._seal = Seal(network, network_hash, trusted=True)

    def output(self, k: int, state: State, positions: Tensor | None = None) -> tuple[State, Tensor, Tensor]:
        """The state after stage k, and φ (N, D) and outputs (N, C) of exit k, float32 or wider.

        Where examples have left the batch, `positions` (N,) says which row is whose, for messages; −1 is nobody's.

        Raises:
            RuntimeError: if part of the network is in training mode.
            ValueError: if its weights have changed, or an output is not one row for each example or not finite.
        """
        if k == 0:
            self._check()
        state, phi = self.network.advance(k, state)
        outputs = self.network.exit(k).classifier(phi)
        if outputs.ndim != 2:
            raise ValueError(
                f"expected logits of shape (N, {self.network.num_classes}) at exit {k}, got {tuple(outputs.shape)}; "
                "inputs are batches: pass x[None] for a single example"
            )
        check_finite(outputs, f"logits at exit {k}", positions=positions)
        dtype = torch.promote_types(phi.dtype, torch.float32)
        return state, phi.to(dtype), outputs.to(dtype)

    def _check(self) -> None:
        """The network as it was calibrated; asked at every call, so it must cost next to nothing."""
        if any(module.training for module in self._seal.modules):
            name = next(name for name, module in self.network.named_modules() if module.training)
            where = f"its module {name!r} in training mode" if name else "training mode"
            raise RuntimeError(f"expected the network in evaluation mode, got {where}; call eval() on the model")
        self._seal.check()


def serving_placement(network: ExitNetwork) -> tuple[torch.device, torch.dtype]:
    """Where posteriors are served: the network's device, and its type but no less than float32."""
    device, dtype = placement(network)
    return device, torch.promote_types(dtype, torch.float32)
