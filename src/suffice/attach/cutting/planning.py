"""Plan of stages that run a model again: which modules are watched, and which of their outputs later stages read.

The model runs on two and on three examples. The dimensions that differ are those of the examples. Then, for each cut,
everything before it is blank but the output at the cut; what the rest of the pass turns out to need is kept.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from suffice.attach.cutting.blank import Blank, BlankValueError, origins_of
from suffice.attach.cutting.plan import Layout, Plan, first_tensor, input_values, inputs_of, is_input, key_of, leaf_key
from suffice.attach.cutting.replay import run
from suffice.attach.interception import intercepted
from suffice.network import State, call
from suffice.twin import inference
from suffice.utils.nest import tree_flatten, tree_leaves, tree_map_only, tree_unflatten


class PlanError(Exception):
    """Error for a pass that cannot be cut; the message completes "expected …"."""


def make_plan(model: nn.Module, at: Sequence[str], classifier: str, selects: bool, batches: Sequence[State]) -> Plan:
    """Plan stages that end behind named modules.

    Args:
        model: Model to cut.
        at: Names of the modules, in any order.
        classifier: Name of the model's classifier.
        selects: Whether the model selects positions from the classifier's output.
        batches: Inputs of two sizes, with at least two examples each.

    Raises:
        PlanError: If a module does not run once, nothing lies between two cuts, or the output at a cut has no
            tensor with the examples first.
    """
    with inference(model) as twin:
        (first, written), (second, _) = (_observe(twin, [*at, classifier], batch) for batch in batches)
        cuts = _ordered(first, at, classifier)
        sizes = [len(next(leaf for leaf in tree_leaves(batch) if isinstance(leaf, Tensor))) for batch in batches]
        layouts = _layouts(first, second, sizes)
        names = [key.rpartition("#")[0] for key in first if not is_input(key)]
        watched = tuple(dict.fromkeys([*names, classifier]))
        plan = Plan(watched, tuple(cuts), classifier, selects, tuple(frozenset[str]() for _ in cuts), layouts, written)
        _check_taps(plan, first, layouts)
        kept: list[frozenset[str]] = []
        for k in reversed(range(len(cuts))):
            before = _until(first, cuts[k])
            later = kept[0] if kept else frozenset[str]()
            earlier = {leaf_key(key, i) for key, nest in before.items() for i in range(len(tree_leaves(nest)))}
            kept.insert(0, _needed(twin, plan, k, before) | (later & earlier))
        return replace(plan, kept=tuple(kept))


def _observe(model: nn.Module, places: Sequence[str], batch: State) -> tuple[dict[str, Any], frozenset[str]]:
    """Run a model and record its inputs and the outputs of the outermost modules around which no place lies.

    Returns:
        The inputs and outputs by key, and the keys of the tensors that the model writes into afterwards.
    """
    around = {".".join(place.split(".")[:i]) for place in places for i in range(place.count(".") + 1)}
    modules = {name: m for name, m in model.named_modules() if name not in around or name in places}
    outputs: dict[str, Any] = input_values(tree_map_only(Tensor, torch.clone, batch))
    versions = _versions(outputs)
    counts: Counter[str] = Counter()
    inside: list[str] = []

    def handle(name: str, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if inside:
            return forward(*args, **kwargs)
        key = key_of(name, counts[name])
        counts[name] += 1
        if name not in around:
            inside.append(name)
        try:
            output = forward(*args, **kwargs)
        finally:
            if name not in around:
                inside.pop()
        outputs[key] = output
        versions.update(_versions({key: output}))
        return output

    with intercepted(modules, handle):
        call(model, inputs_of(outputs))
    after = _versions(outputs)
    return outputs, frozenset(name for name, version in versions.items() if after[name] != version)


def _versions(outputs: Mapping[str, Any]) -> dict[str, int]:
    """Return the version counters of all tensors in outputs by key."""
    leaves = ((leaf_key(key, i), leaf) for key, nest in outputs.items() for i, leaf in enumerate(tree_leaves(nest)))
    return {name: leaf._version for name, leaf in leaves if isinstance(leaf, Tensor)}


def _ordered(outputs: Mapping[str, Any], at: Sequence[str], classifier: str) -> list[str]:
    """Return the names of the cuts in the order in which their modules end."""
    keys = list(outputs)
    runs = Counter(key.rpartition("#")[0] for key in keys)
    for name in at:
        if runs[name] != 1:
            raise PlanError(f"{name!r} to run once in a pass, got {runs[name]} runs")
    ordered = sorted(at, key=lambda name: keys.index(key_of(name, 0)))
    for before, after in zip(ordered, [*ordered[1:], classifier], strict=True):
        first, second = key_of(before, 0), key_of(after, 0)
        if keys.index(first) >= keys.index(second) or _same_tensor(outputs[first], outputs[second]):
            raise PlanError(
                f"modules before the classifier, got the classifier {classifier!r} itself"
                if before == classifier
                else f"distinct modules before the classifier, got {before!r} and {after!r} with nothing between"
            )
    return ordered


def _same_tensor(first: Any, second: Any) -> bool:
    """Return whether two outputs start with one and the same tensor."""
    one, other = (next((t for t in tree_leaves(output) if isinstance(t, Tensor)), None) for output in (first, second))
    return one is not None and one is other


def _layouts(first: Mapping[str, Any], second: Mapping[str, Any], sizes: Sequence[int]) -> dict[str, Layout]:
    """Return the layout of every tensor whose shape is that of one example times their number, or does not change."""
    layouts = {}
    for key in first.keys() & second.keys():
        pairs = zip(tree_leaves(first[key]), tree_leaves(second[key]), strict=False)
        for i, (a, b) in enumerate(pairs):
            if isinstance(a, Tensor) and isinstance(b, Tensor) and (layout := _layout(a, b, sizes)):
                layouts[leaf_key(key, i)] = layout
    return layouts


def _layout(a: Tensor, b: Tensor, sizes: Sequence[int]) -> Layout | None:
    differing = [dim for dim, (m, n) in enumerate(zip(a.shape, b.shape, strict=False)) if m != n]
    if a.ndim != b.ndim or len(differing) > 1:
        return None
    if not differing:
        return Layout(-1)
    (dim,) = differing
    factor, rest = divmod(a.shape[dim], sizes[0])
    return Layout(dim, factor) if not rest and b.shape[dim] == factor * sizes[1] else None


def _check_taps(plan: Plan, outputs: Mapping[str, Any], layouts: Mapping[str, Layout]) -> None:
    for name in plan.cuts:
        leaves = tree_leaves(outputs[key_of(name, 0)])
        tensors = [(i, leaf) for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
        if not tensors or layouts.get(leaf_key(key_of(name, 0), tensors[0][0])) != Layout(0):
            got = ", ".join(str(tuple(leaf.shape)) for _, leaf in tensors) or "no floating tensor"
            raise PlanError(f"{name!r} to return a tensor with the examples first, got {got}")


def _until(outputs: Mapping[str, Any], cut: str) -> dict[str, Any]:
    """Return the inputs and the outputs of all modules that have run when the cut's module has."""
    keys = list(outputs)
    return {key: outputs[key] for key in keys[: keys.index(key_of(cut, 0)) + 1]}


def _needed(model: nn.Module, plan: Plan, k: int, before: Mapping[str, Any]) -> frozenset[str]:
    """Return the keys of the tensors before cut k that the rest of the pass reads."""
    cut = key_of(plan.cuts[k], 0)
    needed = {leaf_key(cut, i) for i in range(len(tree_leaves(before[cut])))}
    while True:
        missing = _missing(model, plan, k, {key: _blanked(key, nest, needed) for key, nest in before.items()})
        unknown = [name for name in missing if name not in plan.layouts]
        if unknown:
            raise PlanError(
                f"outputs with the examples in one dimension, got others at {sorted(unknown)}, which are read behind "
                f"{plan.cuts[k]!r}"
            )
        if missing <= needed:
            return frozenset(needed)
        needed |= missing


def _missing(model: nn.Module, plan: Plan, k: int, values: Mapping[str, Any]) -> frozenset[str]:
    """Return the origins of what the rest of a pass needs and does not have."""
    try:
        result = run(model, plan, values, None)
    except BlankValueError as error:
        return error.origins
    taps = [first_tensor(result.records[key_of(name, 0)]) for name in plan.cuts[k + 1 :]]
    return origins_of([result.output, taps])


def _blanked(key: str, nest: Any, needed: Iterable[str]) -> Any:
    leaves, structure = tree_flatten(nest)
    blanks = [
        Blank.like(leaf.to("meta"), leaf.device, [leaf_key(key, i)])
        if isinstance(leaf, Tensor) and leaf_key(key, i) not in needed
        else leaf
        for i, leaf in enumerate(leaves)
    ]
    return tree_unflatten(blanks, structure)
