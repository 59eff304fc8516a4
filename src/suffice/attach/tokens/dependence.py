"""Dependence of a model's features on its last tokens, found by a gradient that is zero for tokens that are not read.

used (N, T)   True where the features φ of an example depend on a token of the last sequence (N, T, C) of the pass
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from suffice.attach.interception import Reached, intercepted, pass_through
from suffice.attach.plain import UpToClassifier
from suffice.attach.tokens.layout import Layouts
from suffice.network import State, batch_size, call, output_tensor, select
from suffice.utils.nest import tree_flatten, tree_leaves, tree_unflatten

_Watch = Callable[[tuple[str, int], Any, bool], Any]


@dataclass(frozen=True)
class Used:
    """Tokens that the features of a model depend on.

    Attributes:
        tokens: True where the features depend on a token, (N, T) bool.
        channels_first: Whether the last sequence is (N, C, T).
    """

    tokens: Tensor
    channels_first: bool


def find_used(model: nn.Module, whole: UpToClassifier, example: State) -> Used | None:
    """Return which of the last tokens φ depends on; None if there are none, or it is unknown."""
    keys: dict[bool, tuple[str, int]] = {}
    examples = batch_size(example)

    def note(key: tuple[str, int], output: Any, channels_first: bool) -> Any:
        if _tokens(output, examples) is not None:
            keys[channels_first] = key
        return output

    _pass(model, whole, example, note)
    if not keys:
        return None
    first = False not in keys  # a sequence of tokens precedes one with channels first
    found: list[Tensor] = []

    def track(key: tuple[str, int], output: Any, _: bool) -> Any:
        if key != keys[first]:
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
    return None if gradient is None else Used(gradient.abs().amax(dim=1 if first else 2) > 0, first)


def find_used_if_valid(model: nn.Module, whole: UpToClassifier, example: State) -> Tensor | None:
    """Return the tokens of `find_used`, or None for inputs that the model refuses, as a text without its last token."""
    try:
        used = find_used(model, whole, example)
    except Exception:  # models may raise anything
        return None
    return None if used is None else used.tokens


def _tokens(output: Any, examples: int) -> Tensor | None:
    """Return the first tensor of three dimensions, examples first, in a module's output."""
    for leaf in tree_leaves(output):
        if isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.ndim == 3 and len(leaf) == examples:
            return leaf
    return None


def _pass(model: nn.Module, whole: UpToClassifier, example: State, watch: _Watch) -> Tensor:
    """Return φ of a pass in which `watch(key, output, channels first)` replaces the outputs of modules."""
    counts: Counter[str] = Counter()
    layouts = Layouts(batch_size(example))

    def handle(name: str, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if name == whole.classifier:
            phi = pass_through(name, forward, args, kwargs)
            if whole.selects:
                return phi
            raise Reached(phi)
        counts[name] += 1
        key, output = (name, counts[name]), forward(*args, **kwargs)
        layouts.add(modules[name], output)
        tokens = _tokens(output, batch_size(example))
        return watch(key, output, tokens is not None and layouts.of(tokens, modules[name]) == "channels first")

    modules = {name: module for name, module in model.named_modules() if name}
    try:
        with intercepted(modules, handle):
            return output_tensor(call(model, select(example, torch.arange(batch_size(example)))))
    except Reached as reached:
        phi: Tensor = reached.output
        return phi
