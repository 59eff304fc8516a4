"""From a state to an exit: which tensor it reads, how that becomes one vector an example, and a classifier on top.

    φ = LayerNorm(pool(tap(state))),   logits = W φ + b

φ is normalised because states of different depth have different scales, and one learning rate and one prior have to
suit all exits. W and b begin at zero: logistic regression is convex, and no randomness is needed.
"""

import copy
from typing import Any, Literal, get_args

from torch import Tensor, nn

from suffice.network import Exit, State
from suffice.utils.nest import tree_leaves

Pooling = Literal["positions", "tokens", "class token", "none"]


class Tap(nn.Module):
    """The tensor of a state that an exit reads: that of a name, or the first floating one."""

    def __init__(self, name: str | None) -> None:
        super().__init__()
        self.name = name

    def forward(self, state: State) -> Tensor:
        """A tensor, batch first."""
        if self.name is not None:
            tensor: Tensor = state[self.name]
            return tensor
        return next(leaf for leaf in tree_leaves(state) if isinstance(leaf, Tensor) and leaf.is_floating_point())


class Pool(nn.Module):
    """One vector an example: (N, C, …), (N, T, C) or (N, C) → (N, C).

    Raises:
        ValueError: for an unknown name.
    """

    def __init__(self, pooling: Pooling) -> None:
        super().__init__()
        if pooling not in get_args(Pooling):
            raise ValueError(f"expected pooling to be one of {get_args(Pooling)} or a module, got {pooling!r}")
        self.pooling = pooling

    def forward(self, x: Tensor) -> Tensor:
        """The vectors of a batch."""
        match self.pooling:
            case "positions":
                return x.flatten(2).mean(dim=2)
            case "tokens":
                return x.mean(dim=1)
            case "class token":
                return x[:, 0]
        return x

    def extra_repr(self) -> str:
        """The pooling's name."""
        return repr(self.pooling)


def new_exit(tap: Tap, state: State, pooling: Pooling | nn.Module | None, tokens: Pooling, head: nn.Linear) -> Exit:
    """An exit for states like this one, with the classes, device and type of a classifier that is there.

    Args:
        tap: what it reads.
        state: of two examples or more.
        pooling: by name; a module, which is copied; or None, by the number of dimensions.
        tokens: how (N, T, C) is pooled for None.
        head: the classifier to be like.

    Raises:
        ValueError: if the pooling does not give (N, D).
    """
    tensor = tap(state)
    if pooling is None:
        pooling = {2: "none", 3: tokens}.get(tensor.ndim, "positions")
    pool = copy.deepcopy(pooling) if isinstance(pooling, nn.Module) else Pool(pooling)
    phi = pool(tensor)
    if phi.ndim != 2 or len(phi) != len(tensor):
        raise ValueError(
            f"expected pooling to give one vector an example, ({len(tensor)}, D), got shape {tuple(phi.shape)} from "
            f"{tuple(tensor.shape)}; pass pooling=…, one of {get_args(Pooling)} or a module"
        )
    where: dict[str, Any] = {"device": head.weight.device, "dtype": head.weight.dtype}
    classifier = nn.utils.skip_init(nn.Linear, phi.shape[1], head.out_features, **where)
    for parameter in classifier.parameters():
        nn.init.zeros_(parameter)
    return Exit(nn.Sequential(tap, pool, nn.LayerNorm(phi.shape[1], **where)), classifier)
