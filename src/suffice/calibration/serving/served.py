"""Serving of a calibrated network: every pass runs with the calibrated weights and in evaluation mode.

The weights are compared with the calibrated ones at every use. The network runs as a twin in evaluation mode
(`suffice.twin`), whatever mode the network is in, and without the caller's autocast. Its outputs are checked to be
finite and are returned in float32 or a wider type.
"""

import torch
from torch import Tensor, nn

from suffice.inputs import noted, prepare
from suffice.network import Exit, ExitNetwork, State, check_finite, placement
from suffice.storage.seal import Seal
from suffice.utils.modes import full_precision


class Served:
    """A calibrated network that raises an error when its weights have changed.

    Args:
        network: Network to serve; it is not modified.
        network_hash: Its current `fingerprint`, which is trusted and not computed again.
    """

    def __init__(self, network: ExitNetwork, network_hash: str) -> None:
        self.network = network
        self.seal = Seal(network, network_hash, _stages_with_exits, trusted=True)

    def output(self, k: int, state: State, positions: Tensor | None = None) -> tuple[State, Tensor, Tensor]:
        """Run stage k and exit k.

        Args:
            k: Number of the stage.
            state: State before the stage; inputs (`suffice.inputs`) before the first.
            positions: Positions (N,) of the rows in the whole batch, for error messages, where examples have left
                it; rows at −1 hold no example.

        Returns:
            The state after the stage, the features φ (N, D) and the outputs (N, C), float32 or wider.

        Raises:
            RuntimeError: If a compiled or scripted module, which cannot be copied into a twin, is in training mode.
            ValueError: If weights have changed, or outputs are not finite or not one row for each example.
        """
        state = state if k else prepare(state, self.network)
        with full_precision(), self.seal.twin(k) as stage, noted(state):
            state, phi, outputs = stage(state)
        if outputs.ndim != 2:
            raise ValueError(
                f"expected logits of shape (N, {self.network.num_classes}) at exit {k}, got {tuple(outputs.shape)}; "
                "inputs are batches: pass x[None] for a single example"
            )
        check_finite(outputs, f"logits at exit {k}", positions=positions)
        dtype = torch.promote_types(phi.dtype, torch.float32)
        return state, phi.to(dtype), outputs.to(dtype)


class _StageWithExit(nn.Module):
    """A stage and its exit in one module."""

    def __init__(self, stage: nn.Module, exit: Exit) -> None:
        super().__init__()
        self.stage, self.exit = stage, exit
        self.training = False

    def forward(self, state: State) -> tuple[State, Tensor, Tensor]:
        """Return the state after the stage, φ (N, D) and outputs (N, C)."""
        state = self.stage(state)
        phi: Tensor = self.exit.features(state)
        outputs: Tensor = self.exit.classifier(phi)
        return state, phi, outputs


def _stages_with_exits(network: ExitNetwork) -> list[_StageWithExit]:
    return [_StageWithExit(stage, network.exit(k)) for k, stage in enumerate(network.stages)]


def serving_placement(network: ExitNetwork) -> tuple[torch.device, torch.dtype]:
    """Return the device and the type of predictions: those of the network, but at least float32."""
    device, dtype = placement(network)
    return device, torch.promote_types(dtype, torch.float32)
