"""Values of padding that a model states nowhere but in its code, found by trying them.

Ids are tried many at a time, one at each place of some rows: the first and the last ids of the vocabulary, where ids of
padding are. Of rows of numbers (N, T, C) a few usual values are tried. A value that is read where it stands is no
padding; one that is not has to leave out the same tokens in an example.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from suffice.attach.interception import intercepted
from suffice.attach.plain import UpToClassifier
from suffice.attach.tokens.dependence import find_used_if_valid
from suffice.attach.tokens.markings import is_integral, padded, replaced
from suffice.attach.tokens.masks import TokenMask, keyed_tensors, last_index
from suffice.network import State, call, select

ENDS = 1024
"""Number of ids that are tried at either end of a vocabulary."""

_TOKENS = 4096
"""Number of tokens in a batch of trials."""

_BATCHES = 8
"""Number of batches of trials, at most."""

_CONFIRMED = 16
"""Number of ids that are tried in an example, at most."""

_SENTINELS = (-1, -99, -100, -999, -1000, -9999, -10000)


def find_unnamed(model: nn.Module, whole: UpToClassifier, example: State, used: Tensor) -> list[TokenMask]:
    """Return masks by values that mark padding; more than one if a rule that is none of equality leaves out tokens.

    Args:
        model: Twin in evaluation mode.
        whole: The model up to its classifier.
        example: Batch of N inputs.
        used: Tokens that the model reads, (N, T) bool.
    """
    sizes = _vocabularies(model, example)
    found: list[TokenMask] = []
    for key, source in keyed_tensors(example):
        if source.shape[:2] != used.shape or used.shape[1] < 2:
            continue
        if is_integral(source) and source.ndim == 2:
            ids = _unread_ids(model, whole, example, key, source, used, sizes.get(key, 0))
            found += [mask for mask in ids if _explains(model, whole, example, used, mask)]
        elif source.is_floating_point() and bool(used.all()):
            found += [
                mask
                for mask in (TokenMask(key, "other", value) for value in _SENTINELS)
                if _explains(model, whole, example, used, mask)
                and _reads_all(model, whole, example, used, TokenMask(key, "other", -mask.value))
            ]
    return found


def _explains(model: nn.Module, whole: UpToClassifier, example: State, used: Tensor, mask: TokenMask) -> bool:
    """Return whether a value marks the tokens that are not read where it is written."""
    batch = padded(example, mask, used.shape[1])
    read, counted = find_used_if_valid(model, whole, batch), mask(batch, used.shape[1])
    if read is None or read.shape != counted.shape or bool(counted.all()):
        return False
    last = torch.zeros_like(counted).scatter_(1, last_index(counted)[:, None], True)
    return torch.equal(read, counted) or torch.equal(read, last)


def _reads_all(model: nn.Module, whole: UpToClassifier, example: State, used: Tensor, mask: TokenMask) -> bool:
    """Return whether a value of the other sign is read, so that no activation is saturated by its size."""
    read = find_used_if_valid(model, whole, padded(example, mask, used.shape[1]))
    return read is not None and bool(read.all())


def _unread_ids(
    model: nn.Module, whole: UpToClassifier, example: State, key: str | None, source: Tensor, used: Tensor, size: int
) -> Iterator[TokenMask]:
    """Yield the masks of ids that are not read at a place where they are tried."""
    tokens = used.shape[1]
    places = torch.arange(1 if bool(used.any(dim=0).all()) else tokens - 1, tokens)
    unread = set(source[:, -1][~used[:, -1]].tolist())
    ids = torch.tensor([*range(min(ENDS, size)), *range(max(ENDS, size - ENDS), size)])
    for chunk in list(ids.split(max(2, _TOKENS // tokens) * len(places)))[:_BATCHES]:
        row, place = torch.arange(len(chunk)) // len(places), places.repeat(len(chunk))[: len(chunk)]
        trials = source[:1].repeat(max(2, int(row.max()) + 1), 1) if len(chunk) else source
        trials[row, place] = chunk.to(source)
        batch = select(example, torch.zeros(len(trials), dtype=torch.long))
        read = find_used_if_valid(model, whole, replaced(batch, key, partial(_first, trials)))
        if read is not None and read.shape == trials.shape:
            unread.update(chunk[~read[row, place].cpu()].tolist())
    yield from (TokenMask(key, "other", int(value)) for value in sorted(unread)[:_CONFIRMED])


def _first(tensor: Tensor, _: Tensor) -> Tensor:
    return tensor


def _vocabularies(model: nn.Module, example: State) -> dict[str | None, int]:
    """Return the number of embeddings of the inputs that an embedding reads as they are."""
    sizes: dict[str | None, int] = {}

    def handle(name: str, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        ids = args[0] if args else kwargs["input"]
        for key, source in keyed_tensors(example):
            if source.shape == ids.shape and torch.equal(source, ids):
                sizes[key] = min(sizes.get(key, layers[name].num_embeddings), layers[name].num_embeddings)
        return forward(*args, **kwargs)

    layers = {name: module for name, module in model.named_modules() if isinstance(module, nn.Embedding)}
    with torch.no_grad(), intercepted(layers, handle):
        call(model, example)
    return sizes
