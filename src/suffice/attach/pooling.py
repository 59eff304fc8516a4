"""Construction of a new exit: the tensor that it reads, its pooling to one vector per example, and its classifier.

    φ = LayerNorm(pool(tap(state))),   logits = W φ + b

φ is normalized because states of different depth have different scales, while one learning rate and one prior have to
suit all exits. W and b start at zero: logistic regression is convex, so no random initialization is needed.
"""

import copy
from typing import Any, Literal, get_args

from torch import Tensor, nn

from suffice.network import Exit, State
from suffice.utils.nest import tree_leaves

Pooling = Literal["positions", "tokens", "class token", "none"]


class Tap(nn.Module):
    """Selection of the tensor that an exit reads from a state: by name, or the first floating tensor."""

    def __init__(self, name: str | None) -> None:
        super().__init__()
        self.name = name

    def forward(self, state: State) -> Tensor:
        """Return the selected tensor, batch first."""
        if self.name is not None:
            tensor: Tensor = state[self.name]
            return tensor
        return next(leaf for leaf in tree_leaves(state) if isinstance(leaf, Tensor) and leaf.is_floating_point())


class Pool(nn.Module):
    """Pooling to one vector per example: (N, C, …), (N, T, C) or (N, C) → (N, C).

    Raises:
        ValueError: If the name is unknown.
    """

    def __init__(self, pooling: Pooling) -> None:
        super().__init__()
        if pooling not in get_args(Pooling):
            raise ValueError(f"expected pooling to be one of {get_args(Pooling)} or a module, got {pooling!r}")
        self.pooling = pooling

    def forward(self, x: Tensor) -> Tensor:
        """Pool the tensor of a batch."""
        match self.pooling:
            case "positions":
                return x.flatten(2).mean(dim=2)
            case "tokens":
                return x.mean(dim=1)
            case "class token":
                return x[:, 0]
        return x

    def extra_repr(self) -> str:
        """Return the name of the pooling."""
        return repr(self.pooling)


def new_exit(tap: Tap, state: State, pooling: Pooling | nn.Module | None, tokens: Pooling, head: nn.Linear) -> Exit:
    """Build an exit for a state, with the number of classes, device and type of an existing classifier.

    Args:
        tap: Selection of the tensor that the exit reads.
        state: State of two examples or more.
        pooling: Name of a pooling; a module, which is copied; or None, to choose by the number of dimensions.
        tokens: Pooling of (N, T, C) if `pooling` is None.
        head: Classifier that sets the number of classes, the device and the type.

    Raises:
        ValueError: If the pooling does not return (N, D).
    """
    tensor = tap(state)
    if pooling is None:
        pooling = {2: "none", 3: tokens}.get(tensor.ndim, "positions")
    pool = copy.deepcopy(pooling) if isinstance(pooling, nn.Module) else Pool(pooling)
    phi = pool(tensor)
    if phi.ndim != 2 or len(phi) != len(tensor):
        raise ValueError(
            f"expected pooling to return one vector per example, ({len(tensor)}, D), got shape {tuple(phi.shape)} from "
            f"{tuple(tensor.shape)}; pass pooling=…, one of {get_args(Pooling)} or a module"
        )
    factory: dict[str, Any] = {"device": head.weight.device, "dtype": head.weight.dtype}
    classifier = nn.utils.skip_init(nn.Linear, phi.shape[1], head.out_features, **factory)
    for parameter in classifier.parameters():
        nn.init.zeros_(parameter)
    return Exit(nn.Sequential(tap, pool, nn.LayerNorm(phi.shape[1], **factory)), classifier)
