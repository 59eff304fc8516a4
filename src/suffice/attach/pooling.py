"""Construction of a new exit: the tensor that it reads, its pooling to one vector per example, and its classifier.

    φ = LayerNorm(pool(tap(state))),   logits = W φ + b

φ is normalized because states of different depth have different scales, while one learning rate and one prior have to
suit all exits. W and b start at zero: logistic regression is convex, so no random initialization is needed.
"""

import copy
from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from suffice.attach.tokens.layout import Layout
from suffice.attach.tokens.masks import MASK, Reading, last_index
from suffice.network import Exit, State
from suffice.utils.nest import tree_leaves

Pooling = Literal["positions", "tokens", "class token", "last token", "none"]


class Tap(nn.Module):
    """Selection of the tensor that an exit reads from a state: by name, or the first floating tensor.

    Args:
        name: Key of the tensor in the state, or None.
        dtype: Type of the exit, where the tensor has another, as under autocast in the model; None keeps the tensor's.
    """

    def __init__(self, name: str | None, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.name, self.dtype = name, dtype

    def forward(self, state: State) -> Tensor:
        """Return the selected tensor, batch first."""
        if self.name is not None:
            tensor: Tensor = state[self.name]
        else:
            tensor = next(leaf for leaf in tree_leaves(state) if isinstance(leaf, Tensor) and leaf.is_floating_point())
        return tensor if self.dtype is None else tensor.to(self.dtype)


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

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pool the tensor of a batch, over the tokens that count in `mask` (N, T) if there is one."""
        match self.pooling:
            case "positions":
                return x.flatten(2).mean(dim=2) if mask is None else _masked_mean(x.mT, mask)
            case "tokens":
                return x.mean(dim=1) if mask is None else _masked_mean(x, mask)
            case "class token":
                return x[:, 0]
            case "last token":
                return x[:, -1] if mask is None else x[torch.arange(x.shape[0], device=x.device), last_index(mask)]
        return x

    def extra_repr(self) -> str:
        """Return the name of the pooling."""
        return repr(self.pooling)


class MaskedFeatures(nn.Module):
    """Features of an exit that leave out padding: state → φ (N, D)."""

    def __init__(self, tap: Tap, pool: Pool, norm: nn.Module) -> None:
        super().__init__()
        self.tap, self.pool, self.norm = tap, pool, norm

    def forward(self, state: State) -> Tensor:
        """Return the features φ (N, D) of a state that holds a mask."""
        phi: Tensor = self.norm(self.pool(self.tap(state), state[MASK]))
        return phi


def new_exit(
    tap: Tap,
    state: State,
    pooling: Pooling | nn.Module | None,
    reading: Reading,
    head: nn.Linear,
    layout: Layout = "tokens",
) -> Exit:
    """Build an exit for a state, with the number of classes, device and type of an existing classifier.

    Args:
        tap: Selection of the tensor that the exit reads.
        state: State of two examples or more; with a mask of its tokens if `reading` has one.
        pooling: Name of a pooling; a module, which is copied; or None, to choose by the number of dimensions.
        reading: Pooling of (N, T, C) if `pooling` is None, and its mask.
        head: Classifier that sets the number of classes, the device and the type.
        layout: Layout of a tensor of three dimensions.

    Raises:
        ValueError: If the pooling does not return (N, D), the mask has another number of tokens, or the layout is
            unclear.
    """
    tensor = tap(state)
    if tensor.dtype != head.weight.dtype:
        tap = Tap(tap.name, head.weight.dtype)
        tensor = tap(state)
    if pooling is None:
        if tensor.ndim == 3 and layout == "unclear":
            raise ValueError(
                "expected a state that is tokens (N, T, C) or channels first (N, C, T), got shape "
                f"{tuple(tensor.shape)}, which may be either; pass pooling='tokens' or pooling='positions', or an "
                "example of another length"
            )
        channels_first = layout == "channels first"
        by_dimensions: dict[int, Pooling] = {2: "none", 3: "positions" if channels_first else reading.pooling}
        pooling = by_dimensions.get(tensor.ndim, "positions")
    positions = pooling == "positions" and tensor.ndim == 3
    masked = reading.mask is not None and (positions or pooling in ("tokens", "last token"))
    if masked and not (isinstance(state, Mapping) and MASK in state):
        raise ValueError(
            f"expected pooling=… for given stages of a model that leaves out padding by its input {reading.mask}, got "
            "none; pass a module that leaves out the same tokens, or names of modules to attach exits after"
        )
    tokens = (tensor.mT if positions else tensor).shape[:2]
    if masked and state[MASK].shape != tokens:
        raise ValueError(
            f"expected one token at the exit for each in the mask, got {tuple(tokens)} and "
            f"{tuple(state[MASK].shape)} of the input {reading.mask}; pass pooling=…, a module that leaves padding out"
        )
    pool = copy.deepcopy(pooling) if isinstance(pooling, nn.Module) else Pool(pooling)
    phi = pool(tensor, state[MASK]) if masked else pool(tensor)
    if phi.ndim != 2 or len(phi) != len(tensor):
        raise ValueError(
            f"expected pooling to return one vector per example, ({len(tensor)}, D), got shape {tuple(phi.shape)} from "
            f"{tuple(tensor.shape)}; pass pooling=…, one of {get_args(Pooling)} or a module"
        )
    factory: dict[str, Any] = {"device": head.weight.device, "dtype": head.weight.dtype}
    classifier = nn.utils.skip_init(nn.Linear, phi.shape[1], head.out_features, **factory)
    for parameter in classifier.parameters():
        nn.init.zeros_(parameter)
    norm = nn.LayerNorm(phi.shape[1], **factory)
    if masked and isinstance(pool, Pool):
        return Exit(MaskedFeatures(tap, pool, norm), classifier)
    return Exit(nn.Sequential(tap, pool, norm), classifier)


def _masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Return the mean (N, C) of the tokens (N, T, C) that count; 0 where none does."""
    kept = x.masked_fill(~mask[:, :, None], 0)
    return kept.sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp_min(1)
