"""Search for the tokens that a model's own pooling reads, and for the input that marks them.

    used (N, T)   True where the features φ of an example depend on a token of the last sequence (N, T, C) of the pass

The dependence is exact: a token that is masked or not selected has a gradient of zero. If some tokens are not read,
an input marks them: a mask, its complement, ids of padding, or lengths. Exits have to leave out the same tokens, else
their predictions depend on how far a text was padded for the longest one in its batch.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from suffice.attach.interception import Reached, intercepted, pass_through
from suffice.attach.masks import Reading, TokenMask, last_index
from suffice.attach.plain import UpToClassifier, as_exit_network
from suffice.network import State, batch_size, call, output_tensor, select
from suffice.twin import inference
from suffice.utils.nest import tree_flatten, tree_leaves, tree_unflatten


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
    if not any(_is_integral(source) or source.ndim == 2 for _, source in _sources(example)):
        return None
    try:
        stage = as_exit_network(model, example).stages[0]
    except (TypeError, ValueError):
        stage = None
    if not isinstance(stage, UpToClassifier):
        return next(_named_masks(example), None)
    reading = read_tokens(model, stage, example)
    return next(_named_masks(example), None) if reading.pooling == "class token" else reading.mask


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
    with inference(model) as twin:
        used = _used(twin, whole, example)
        if used is None:
            return Reading("tokens", next(_named_masks(example), None))
        if used.shape[1] > 1 and bool(used[:, 0].all()) and not bool(used[:, 1:].any()):
            return Reading("class token")
        unexplained = None
        for mask in _candidates(model, example, used):
            batch = _padded(example, mask)
            read = _used_if_valid(twin, whole, batch)
            reading = _matching(used, mask, example) if read is None else _matching(read, mask, batch)
            if reading:
                return reading
            if read is not None and read.shape == used.shape and bool((used & ~read).any()):
                unexplained = read
    if unexplained is not None:
        raise UnmarkedError(_explain(unexplained))
    return _without_mask(used)


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


def _candidates(model: nn.Module, example: State, used: Tensor) -> Iterator[TokenMask]:
    """Yield the masks that an input may give, those of inputs called masks first."""
    values = [module.padding_idx for module in model.modules() if isinstance(module, nn.Embedding)]
    values.append(getattr(getattr(model, "config", None), "pad_token_id", None))
    padding = sorted({value for value in values if isinstance(value, int)})
    for key, source in sorted(_sources(example), key=lambda pair: "mask" not in str(pair[0])):
        if source.ndim == 2 and len(source) == len(used):
            if bool(((source == 0) | (source == 1)).all()):
                yield TokenMask(key, "true")
                yield TokenMask(key, "false")
            if _is_integral(source):
                yield from (TokenMask(key, "other", value) for value in padding)
        elif _is_integral(source) and source.ndim == 1 and bool(((source >= 1) & (source <= used.shape[1])).all()):
            yield TokenMask(key, "length")


def _is_integral(source: Tensor) -> bool:
    return not source.is_floating_point() and source.dtype != torch.bool


def _sources(example: State) -> Iterator[tuple[str | None, Tensor]]:
    """Yield the tensors among the inputs that are no nests, by key."""
    items = example.items() if isinstance(example, Mapping) else [(None, example)]
    yield from ((key, value) for key, value in items if isinstance(value, Tensor))


def _named_masks(example: State) -> Iterator[TokenMask]:
    """Yield the mask that is called the attention mask, for models whose dependence cannot be found."""
    for key, source in _sources(example):
        if key == "attention_mask" and source.ndim == 2:
            yield TokenMask(key, "true")


def _padded(example: State, mask: TokenMask) -> State:
    """Return the example with the last quarter of its first row marked as padding."""

    def mark(source: Tensor) -> Tensor:
        source = source.clone()
        if mask.kind == "length":
            source[0] = max(1, int(source[0]) * 3 // 4)
            return source
        count = max(1, source.shape[1] // 4)
        source[0, -count:] = {"true": 0, "false": 1, "other": mask.value}[mask.kind]
        return source

    if mask.key is None:
        return mark(example)
    return {key: mark(value) if key == mask.key else value for key, value in example.items()}


def _used(model: nn.Module, whole: UpToClassifier, example: State) -> Tensor | None:
    """Return whether φ depends on each of the last tokens, (N, T) bool; None if there are none, or it is unknown."""
    keys: list[tuple[str, int]] = []
    examples = batch_size(example)

    def note(key: tuple[str, int], output: Any) -> Any:
        if _tokens(output, examples) is not None:
            keys.append(key)
        return output

    _pass(model, whole, example, note)
    if not keys:
        return None
    found: list[Tensor] = []

    def track(key: tuple[str, int], output: Any) -> Any:
        if key != keys[-1]:
            return output
        tokens = _tokens(output, examples)
        assert tokens is not None
        found.append(tokens.detach().requires_grad_())
        copy = found[0].clone()  # the model may write into it
        leaves, structure = tree_flatten(output)
        return tree_unflatten([copy if leaf is tokens else leaf for leaf in leaves], structure)

    with torch.enable_grad():
        phi = _pass(model, whole, example, track)
        if not phi.requires_grad:
            return None
        directions = torch.randn(phi.shape, generator=torch.Generator().manual_seed(0)).to(phi)
        (gradient,) = torch.autograd.grad((phi * directions).sum(), found[0], allow_unused=True)
    return None if gradient is None else gradient.abs().amax(dim=2) > 0


def _used_if_valid(model: nn.Module, whole: UpToClassifier, example: State) -> Tensor | None:
    """Return `_used`, or None for inputs that the model refuses, as a text without its last token."""
    try:
        return _used(model, whole, example)
    except Exception:  # models may raise anything
        return None


def has_channels_first(module: nn.Module) -> bool:
    """Return whether a module ends in a layer of (N, C, T), so that its output is no sequence of tokens (N, T, C)."""
    *_, last = module.modules()
    return isinstance(last, _CHANNELS_FIRST)


_CHANNELS_FIRST = (nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)
"""Layers whose input and output have the channels in the second dimension."""


def _tokens(output: Any, examples: int) -> Tensor | None:
    """Return the first tensor (N, T, C) in a module's output."""
    for leaf in tree_leaves(output):
        if isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.ndim == 3 and len(leaf) == examples:
            return leaf
    return None


def _pass(
    model: nn.Module, whole: UpToClassifier, example: State, watch: Callable[[tuple[str, int], Any], Any]
) -> Tensor:
    """Return φ of a pass in which `watch(key, output)` replaces the output of every module but those around others."""
    counts: Counter[str] = Counter()

    def handle(name: str, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if name == whole.classifier:
            phi = pass_through(name, forward, args, kwargs)
            if whole.selects:
                return phi
            raise Reached(phi)
        counts[name] += 1
        key, output = (name, counts[name]), forward(*args, **kwargs)
        return output if has_channels_first(modules[name]) else watch(key, output)

    modules = {name: module for name, module in model.named_modules() if name}
    try:
        with intercepted(modules, handle):
            return output_tensor(call(model, select(example, torch.arange(batch_size(example)))))
    except Reached as reached:
        phi: Tensor = reached.output
        return phi


def _explain(used: Tensor) -> str:
    """Describe which tokens of which example are not read."""
    row = int((~used.all(dim=1)).nonzero()[0])
    skipped = (~used[row]).nonzero()[:, 0].tolist()
    return (
        f"a pooling that does not read the tokens {skipped[:8]}{' …' if len(skipped) > 8 else ''} of example {row}, "
        "which no input marks"
    )
