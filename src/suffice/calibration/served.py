"""A network as it is served: as it was calibrated, or not at all.

Its weights are those that were calibrated, which is checked at every use. It runs as a twin in evaluation mode
(`suffice.twin`), whatever mode the network is in, and without the caller's autocast. Its outputs are finite, in the
type that answers are given in.
"""

import torch
from torch import Tensor, nn

from suffice.network import Exit, ExitNetwork, State, check_finite, placement
from suffice.storage.seal import Seal
from suffice.utils.modes import full_precision


class Served:
    """A network that refuses to answer otherwise than it was calibrated.

    Args:
        network: only read.
        network_hash: `fingerprint` of its weights, which are known to be those.
    """

    def __init__(self, network: ExitNetwork, network_hash: str) -> None:
        self.network = network
        parts = [_Part(stage, network.exit(k)) for k, stage in enumerate(network.stages)]
        self.seal = Seal(network, network_hash, parts, trusted=True)

    def output(self, k: int, state: State, positions: Tensor | None = None) -> tuple[State, Tensor, Tensor]:
        """The state after stage k, and φ (N, D) and outputs (N, C) of exit k, float32 or wider.

        Where examples have left the batch, `positions` (N,) says which row is whose, for messages; −1 is nobody's.

        Raises:
            RuntimeError: if a compiled or scripted part of the network, which runs as it is, is in training mode.
            ValueError: if its weights have changed, or an output is not one row for each example or not finite.
        """
        with full_precision(), self.seal.twin(k) as part:
            state, phi, outputs = part(state)
        if outputs.ndim != 2:
            raise ValueError(
                f"expected logits of shape (N, {self.network.num_classes}) at exit {k}, got {tuple(outputs.shape)}; "
                "inputs are batches: pass x[None] for a single example"
            )
        check_finite(outputs, f"logits at exit {k}", positions=positions)
        dtype = torch.promote_types(phi.dtype, torch.float32)
        return state, phi.to(dtype), outputs.to(dtype)


class _Part(nn.Module):
    """A stage and its exit."""

    def __init__(self, stage: nn.Module, exit: Exit) -> None:
        super().__init__()
        self.stage, self.exit = stage, exit
        self.training = False

    def forward(self, state: State) -> tuple[State, Tensor, Tensor]:
        """The state after the stage, φ (N, D) and outputs (N, C)."""
        state = self.stage(state)
        phi: Tensor = self.exit.features(state)
        outputs: Tensor = self.exit.classifier(phi)
        return state, phi, outputs


def serving_placement(network: ExitNetwork) -> tuple[torch.device, torch.dtype]:
    """Where answers are given: the network's device, and its type but no less than float32."""
    device, dtype = placement(network)
    return device, torch.promote_types(dtype, torch.float32)
