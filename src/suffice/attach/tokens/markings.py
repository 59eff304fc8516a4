"""Inputs that may mark padding: the masks that they would give, and examples with tokens that they mark."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from suffice.attach.tokens.masks import TokenMask, keyed_tensors
from suffice.network import State
from suffice.utils.nest import tree_flatten, tree_unflatten

_LARGE = 1e3
"""Size from which negative numbers are those of masks that are added to scores."""


def candidates(model: nn.Module, example: State, used: Tensor) -> Iterator[TokenMask]:
    """Yield the masks that an input may give, those of inputs called masks first.

    Args:
        model: Model, whose ids of padding are looked up.
        example: Batch of N inputs.
        used: Tokens that the model reads, (N, T) bool.
    """
    values = [module.padding_idx for module in model.modules() if isinstance(module, nn.Embedding)]
    values.append(getattr(getattr(model, "config", None), "pad_token_id", None))
    padding = sorted({value for value in values if isinstance(value, int)})
    for key, source in sorted(keyed_tensors(example), key=lambda pair: "mask" not in str(pair[0])):
        if source.numel() == len(used):
            yield from _lengths(key, source, used.shape[1])
        elif source.ndim > 1:
            yield from _masks(key, source, example, used)
            if source.shape[:2] == used.shape:
                usual = padding if is_integral(source) else [0] if source.is_floating_point() else []
                yield from (TokenMask(key, "other", value) for value in usual)


def _masks(key: str | None, source: Tensor, example: State, used: Tensor) -> Iterator[TokenMask]:
    """Yield masks that mark each token, or each key of attention."""
    if source.ndim > 2 and TokenMask(key, "true")(example, used.shape[1]).shape != used.shape:
        return
    if bool(((source == 0) | (source == 1)).all()):
        yield TokenMask(key, "true")
        yield TokenMask(key, "false")
    below = source[source < 0] if source.dtype != torch.bool else None
    if below is None or source.is_complex():
        return
    additive = bool((below <= -_LARGE).all()) and bool((source <= 0).all())
    # a kernel that looks up a negative id ends a process on a GPU, so that none is tried there
    segments = is_integral(source) and bool((below == -1).all()) and (source.device.type == "cpu" or len(below) > 0)
    if additive or segments:
        yield TokenMask(key, "nonnegative")


def _lengths(key: str | None, source: Tensor, tokens: int) -> Iterator[TokenMask]:
    """Yield masks of lengths, of positions of the last token and of fractions of all tokens."""
    if source.is_floating_point() and bool(((source > 0) & (source <= 1)).all()):
        yield TokenMask(key, "fraction")
    if source.dtype == torch.bool or source.is_complex() or not bool((source == source.round()).all()):
        return
    yield from (
        TokenMask(key, "length", offset)
        for offset in (0, 1)
        if bool(((source + offset >= 1) & (source + offset <= tokens)).all())
    )


def is_integral(source: Tensor) -> bool:
    """Return whether a tensor holds integers."""
    return not source.is_floating_point() and not source.is_complex() and source.dtype != torch.bool


def named_masks(example: State) -> Iterator[TokenMask]:
    """Yield the mask that is called the attention mask, for models whose dependence cannot be found."""
    for key, source in keyed_tensors(example):
        if key == "attention_mask" and source.ndim == 2:
            yield TokenMask(key, "true")


def padded(example: State, mask: TokenMask, tokens: int) -> State:
    """Return the example with the last quarter of one row marked as padding.

    It is the last row of lengths, so that sorted ones stay sorted, else the last of the rows with the least padding.
    """
    counts = mask(example, tokens).sum(dim=1)
    row = -1 if mask.kind in ("length", "fraction") else int((counts == counts.max()).nonzero()[-1])
    return replaced(example, mask.key, lambda source: _marked(source.clone(), row, mask, tokens))


def _marked(source: Tensor, row: int, mask: TokenMask, tokens: int) -> Tensor:
    if mask.kind in ("length", "fraction"):
        unit = tokens if mask.kind == "fraction" else 1
        length = round(float(source[row]) * unit) + mask.value
        source[row] = (max(1, length * 3 // 4) - mask.value) / unit
        return source
    lowest = torch.finfo(source.dtype).min if source.is_floating_point() else -1
    value = {"true": 0, "false": 1, "nonnegative": lowest, "other": mask.value}[mask.kind]
    keys = mask.kind != "other" and source.shape[-1] != 1
    dimension = source.ndim - 1 if keys else 1
    count = max(1, source.shape[dimension] // 4)
    source[row].narrow(dimension - 1, source.shape[dimension] - count, count).fill_(value)
    return source


def replaced(example: State, key: str | None, change: Callable[[Tensor], Tensor]) -> State:
    """Return an example with another tensor of a key; the nest is copied."""
    keys = iter(keyed_tensors(example))
    leaves, structure = tree_flatten(example)
    changed = [change(leaf) if isinstance(leaf, Tensor) and next(keys)[0] == key else leaf for leaf in leaves]
    return tree_unflatten(changed, structure)
