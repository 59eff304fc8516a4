"""Search for the tokens that a model's own pooling reads, and for the input that marks them.

    used (N, T)   True where the features φ of an example depend on a token of the last sequence (N, T, C) of the pass

The dependence is exact: a token that is masked or not selected has a gradient of zero. If some tokens are not read,
an input marks them: a mask, its complement, ids of padding, or lengths. Exits have to leave out the same tokens, else
their predictions depend on how far a text was padded for the longest one in its batch.
"""

import torch
from torch import Tensor, nn

from suffice.attach.plain import UpToClassifier, as_exit_network
from suffice.attach.tokens.dependence import find_used, find_used_if_valid
from suffice.attach.tokens.markings import candidates, named_masks, padded
from suffice.attach.tokens.masks import Reading, TokenMask, last_index
from suffice.attach.tokens.unnamed import find_unnamed
from suffice.network import State, batch_size, select
from suffice.twin import inference


class UnmarkedError(ValueError):
    """Error for a model that leaves out tokens by a rule that cannot be found."""


def mask_of(model: nn.Module, example: State) -> TokenMask | None:
    """Find the mask of the tokens that count for a model, for features that are pooled over its tokens.

    Args:
        model: Any model. If its pooling cannot be observed, the mask is its input "attention_mask", if any.
        example: Batch of inputs.

    Raises:
        UnmarkedError: If some tokens are not read and no input explains which.
    """
    example = select(example, torch.arange(min(4, batch_size(example))))
    try:
        stage = as_exit_network(model, example).stages[0]
    except (TypeError, ValueError):
        stage = None
    if not isinstance(stage, UpToClassifier):
        return next(named_masks(example), None)
    reading = read_tokens(model, stage, example)
    return next(named_masks(example), None) if reading.pooling == "class token" else reading.mask


def read_tokens(model: nn.Module, whole: UpToClassifier, example: State) -> Reading:
    """Find how a model's own pooling reads its last tokens.

    Inputs that may mark padding are tried: the last tokens of an example are marked in one input, and the dependence is
    compared. So of two inputs that mark the same tokens, the one that the model reads is found.

    Args:
        model: Trained classifier.
        whole: The model up to its classifier.
        example: Batch of inputs.

    Raises:
        UnmarkedError: If some tokens are not read and no input explains which.
    """
    example = select(example, torch.arange(max(2, batch_size(example))) % batch_size(example))
    with inference(model) as twin:
        found = find_used(twin, whole, example)
        named = next(named_masks(example), None)
        if found is None:
            return Reading("tokens", named)
        used = found.tokens
        if used.shape[1] > 1 and bool(used[:, 0].all()) and not bool(used[:, 1:].any()):
            return Reading("class token")
        unexplained = None
        for mask in candidates(model, example, used):
            batch = padded(example, mask, used.shape[1])
            read = find_used_if_valid(twin, whole, batch)
            reading = _matching(used, mask, example) if read is None else _matching(read, mask, batch)
            if reading:
                return reading
            if read is not None and read.shape == used.shape and bool((used & ~read).any()):
                unexplained = read
        if found.channels_first:  # a pooling of channels first, such as a maximum, may leave out any position
            return Reading("tokens", named)
        if unexplained is not None:
            raise UnmarkedError(_explain(unexplained))
        unnamed = find_unnamed(twin, whole, example, used)
    if len(unnamed) > 1:
        values = ", ".join(str(mask.value) for mask in unnamed[:4])
        raise UnmarkedError(f"a pooling that does not read tokens by a rule of several values, such as {values}")
    return Reading("tokens" if bool(used[:, 0].any()) else "last token", unnamed[0]) if unnamed else _without_mask(used)


def _without_mask(used: Tensor) -> Reading:
    if bool(used.all()):
        return Reading("tokens")
    if bool(used[:, -1].all()) and not bool(used[:, :-1].any()):
        return Reading("last token")
    raise UnmarkedError(_explain(used))


def _matching(used: Tensor, mask: TokenMask, batch: State) -> Reading | None:
    """Return the reading with a mask if it explains which tokens are used; a mask of all tokens explains nothing."""
    counted = mask(batch, used.shape[1])
    if counted.shape != used.shape or bool(counted.all()):
        return None
    if torch.equal(used, counted):
        return Reading("tokens", mask)
    return Reading("last token", mask) if torch.equal(used, _last(counted)) else None


def _last(counted: Tensor) -> Tensor:
    """Return a mask (N, T) of the last token that counts alone."""
    index = last_index(counted)
    return torch.zeros_like(counted).scatter_(1, index[:, None], True) & counted


def _explain(used: Tensor) -> str:
    """Describe which tokens of which example are not read."""
    row = int((~used.all(dim=1)).nonzero()[0])
    skipped = (~used[row]).nonzero()[:, 0].tolist()
    return (
        f"a pooling that does not read the tokens {skipped[:8]}{' …' if len(skipped) > 8 else ''} of example {row}, "
        "which no input marks"
    )
