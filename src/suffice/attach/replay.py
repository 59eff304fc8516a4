"""Stages without a trace: the model's own forward pass runs again, with outputs recorded earlier in place of modules.

    stage k   the pass from its beginning; modules that ran before cut k − 1 return what they returned then, for the
              rows that are still in flight; the pass ends behind cut k, or before the classifier
    state     the outputs that later stages read, and the shapes of all others (`suffice.attach.blank`)

What lies between modules (masks, shapes, conditions) is computed again by each stage, and is cheap. So a model may use
any control flow of Python, caches, plain values, and modules made in its forward pass.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from suffice.attach.blank import Blank, BlankValueError, origins_of
from suffice.attach.interception import Reached, intercepted
from suffice.network import State, batch_size, call, output_tensor
from suffice.twin import Twin, is_twin
from suffice.utils.nest import tree_flatten, tree_unflatten

INPUTS = "inputs"
"""Key of the inputs of the model among the values of a state; those of a mapping have keys that begin with it."""

TAP = "output"
"""Key in a state of the tensor that its exit reads."""


@dataclass(frozen=True)
class Layout:
    """Position of the examples in a tensor: dimension `dim` has `factor` entries for each example.

    A tensor that is the same for all examples has the dimension −1.
    """

    dim: int
    factor: int = 1

    def sizes(self, tensor: Tensor, examples: int) -> tuple[int, ...]:
        """Return the shape of a tensor, with the entries for one example in the dimension of the examples."""
        shape = list(tensor.shape)
        if self.dim >= 0:
            if self.dim >= len(shape) or shape[self.dim] != self.factor * examples:
                raise RuntimeError(
                    f"expected {self.factor * examples} entries in dimension {self.dim} for {examples} examples, got "
                    f"shape {tuple(shape)}; the model's modules return other shapes than for the example of "
                    "suffice.attach_exits"
                )
            shape[self.dim] = self.factor
        return tuple(shape)

    def examples_first(self, tensor: Tensor, examples: int) -> Tensor:
        """Return a tensor (N, …) with one entry per example."""
        if self.dim < 0:
            return tensor.unsqueeze(0).expand(examples, *tensor.shape)
        split: Tensor = tensor.movedim(self.dim, 0).unflatten(0, (examples, self.factor))
        return split

    def restored(self, tensor: Tensor) -> Tensor:
        """Return the tensor from which `examples_first` made this one."""
        return tensor[0] if self.dim < 0 else tensor.flatten(0, 1).movedim(0, self.dim)


@dataclass(frozen=True)
class Outline:
    """Tensor of a module's output whose values are not kept: its type, its shape for one example, its layout."""

    dtype: torch.dtype
    sizes: tuple[int, ...]
    layout: Layout

    def blank(self, examples: int, device: torch.device, origin: str) -> Blank:
        """Return a blank for a number of examples."""
        shape = list(self.sizes)
        if self.layout.dim >= 0:
            shape[self.layout.dim] *= examples
        return Blank.of(shape, self.dtype, device, origin)


@dataclass(frozen=True)
class Plan:
    """Places at which a model's pass is cut, and what is kept of it from stage to stage.

    Attributes:
        watched: Names of the modules whose outputs are recorded.
        cuts: Names of the K − 1 modules behind which the stages but the last end, in order.
        classifier: Name of the model's classifier.
        selects: Whether the model selects positions from the classifier's output (`suffice.attach.behind`).
        kept: For each cut, the keys of the values that later stages read.
        layouts: Layouts of the tensors by key.
        written: Keys of the tensors that the model writes into after a module has returned them.
    """

    watched: tuple[str, ...]
    cuts: tuple[str, ...]
    classifier: str
    selects: bool
    kept: tuple[frozenset[str], ...]
    layouts: Mapping[str, Layout]
    written: frozenset[str] = frozenset()


class Stage(nn.Module):
    """Part of a model's pass, between two cuts.

    The first stage holds the model as a submodule; the others refer to the same one, so that a network has each weight
    once.
    """

    def __init__(self, model: nn.Module, plan: Plan, k: int) -> None:
        super().__init__()
        self.plan, self.k = plan, k
        self._reference: tuple[nn.Module, ...] = ()
        if k == 0:
            self.model = model
        else:
            self._reference = (model,)

    def forward(self, state: State) -> State:
        """Return the state behind the stage, or the features φ (N, D) of the last one."""
        model = self._reference[0] if self._reference else self.model
        if is_twin(model):
            return self._run(model, state)
        with Twin(model, evaluation=False).running() as twin:
            return self._run(twin, state)

    def _run(self, model: nn.Module, state: State) -> State:
        if self.k == 0:
            values = input_values(state)
            examples = batch_size(state)
        else:
            examples, device = len(state[TAP]), state[TAP].device
            values = unpack(state["kept"], state["outlines"], self.plan.layouts, examples, device)
        until = self.plan.cuts[self.k] if self.k < len(self.plan.cuts) else None
        try:
            result = run(model, self.plan, values, until)
        except BlankValueError as error:
            raise_missing(error.origins)
        if until is None:
            missing = origins_of(result.output)
            if missing:
                raise_missing(missing)
            return result.output
        kept, outlines = pack({**values, **result.records}, self.plan, self.k, examples)
        return {TAP: first_tensor(result.output), "kept": kept, "outlines": outlines}

    def extra_repr(self) -> str:
        """Return the modules between which the stage lies."""
        begin = self.plan.cuts[self.k - 1] if self.k else "inputs"
        end = self.plan.cuts[self.k] if self.k < len(self.plan.cuts) else self.plan.classifier
        return f"from {begin!r} to {end!r}"


@dataclass(frozen=True)
class PartialPass:
    """Part of a pass.

    Attributes:
        output: Output of the module at its end, or the features φ (N, D).
        records: Outputs of the watched modules by key, in order of completion.
    """

    output: Any
    records: Mapping[str, Any]


def run(model: nn.Module, plan: Plan, values: Mapping[str, Any], until: str | None) -> PartialPass:
    """Run a model's pass with recorded outputs in place of modules.

    Args:
        model: Twin of the model.
        plan: Places to watch.
        values: Inputs and outputs by key; a module whose output is among them does not run.
        until: Name of the module behind which the pass ends; None ends it before the classifier.
    """
    records: dict[str, Any] = {}
    counts: Counter[str] = Counter()

    def handle(name: str, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        key = key_of(name, counts[name])
        counts[name] += 1
        if key in values:
            return _own_copies(key, values[key], plan)
        if name == plan.classifier:
            phi = args[0] if args else kwargs["input"]
            if plan.selects:
                return phi
            raise Reached(phi)
        output = forward(*args, **kwargs)
        if name == until:
            raise Reached(output)
        records[key] = _own_copies(key, output, plan)
        return output

    modules = {name: model.get_submodule(name) for name in plan.watched}
    try:
        with intercepted(modules, handle):
            inputs = {key: _own_copies(key, value, plan) for key, value in values.items() if is_input(key)}
            output = output_tensor(call(model, inputs_of(inputs)))
    except Reached as reached:
        output = reached.output
        if until is not None:
            records[key_of(until, 0)] = output
        return PartialPass(output, records)
    if until is not None or not plan.selects:
        raise RuntimeError(f"expected a pass to reach {until or plan.classifier!r}, got one that did not")
    return PartialPass(output, records)


def input_values(inputs: State) -> dict[str, Any]:
    """Return the inputs of a model by key."""
    if isinstance(inputs, Mapping):
        return {f"{INPUTS}.{key}": value for key, value in inputs.items()}
    return {INPUTS: inputs}


def inputs_of(values: Mapping[str, Any]) -> State:
    """Return the inputs of a model from values by key."""
    if INPUTS in values:
        return values[INPUTS]
    begin = f"{INPUTS}."
    return {key.removeprefix(begin): value for key, value in values.items() if key.startswith(begin)}


def is_input(key: str) -> bool:
    """Return whether a key is that of an input."""
    return key == INPUTS or key.startswith(f"{INPUTS}.")


def key_of(name: str, count: int) -> str:
    """Return the key of a module's output: the module's name and the number of its earlier calls in the pass."""
    return f"{name}#{count}"


def leaf_key(key: str, i: int) -> str:
    """Return the key of one leaf of a nest of tensors."""
    return f"{key}[{i}]"


def first_tensor(output: Any) -> Tensor:
    """Return the first floating tensor of a module's output."""
    return next(leaf for leaf in tree_flatten(output)[0] if isinstance(leaf, Tensor) and leaf.is_floating_point())


def pack(values: Mapping[str, Any], plan: Plan, k: int, examples: int) -> tuple[dict[str, Tensor], "Outlines"]:
    """Split values into tensors (N, …) to keep, by key, and the outlines of all others.

    Args:
        values: Inputs and outputs by key.
        plan: Keys to keep behind cut k.
        k: Number of the cut.
        examples: Number of examples N.
    """
    kept, outlines = dict[str, Tensor](), list[tuple[str, Any, tuple[Any, ...]]]()
    for key, nest in values.items():
        leaves, structure = tree_flatten(nest)
        entries = []
        for i, leaf in enumerate(leaves):
            if isinstance(leaf, Tensor):
                name = leaf_key(key, i)
                layout = plan.layouts.get(name, Layout(0) if leaf.ndim and len(leaf) == examples else Layout(-1))
                if name in plan.kept[k] or (is_input(key) and _is_small(leaf, name, plan)):
                    if isinstance(leaf, Blank):
                        raise_missing(leaf.origins)
                    kept[name] = layout.examples_first(leaf, examples)
                leaf = Outline(leaf.dtype, layout.sizes(leaf, examples), layout)
            entries.append(leaf)
        outlines.append((key, structure, tuple(entries)))
    return kept, Outlines(tuple(outlines))


@dataclass(frozen=True)
class Outlines:
    """Recorded outputs: their keys, their structures, and the outlines of their tensors and their plain values.

    Equal for batches whose rows may be joined.
    """

    entries: tuple[tuple[str, Any, tuple[Any, ...]], ...]


def unpack(
    kept: Mapping[str, Tensor], outlines: Outlines, layouts: Mapping[str, Layout], examples: int, device: torch.device
) -> dict[str, Any]:
    """Return the values from which `pack` made its result, with blanks in place of those that were not kept."""
    values = {}
    for key, structure, entries in outlines.entries:
        leaves = []
        for i, entry in enumerate(entries):
            name = leaf_key(key, i)
            if name in kept:
                entry = entry.layout.restored(kept[name])
            elif isinstance(entry, Outline):
                entry = entry.blank(examples, device, name)
            leaves.append(entry)
        values[key] = tree_unflatten(leaves, structure)
    return values


def _is_small(leaf: Tensor, name: str, plan: Plan) -> bool:
    """Return whether an input is kept though the example's pass did not need it: ids, masks, and inputs it lacked."""
    return not leaf.is_floating_point() or name not in plan.layouts


def raise_missing(origins: frozenset[str]) -> NoReturn:
    """Raise a RuntimeError for values that an input needs and the example did not."""
    raise RuntimeError(
        f"expected a pass that reads the outputs that the example's read, got one that also reads {sorted(origins)}; "
        "attach the exits with an example that takes this branch"
    )


def _own_copies(key: str, nest: Any, plan: Plan) -> Any:
    """Return a nest with copies of the tensors that the model writes into, so that a state keeps the first values."""
    leaves, structure = tree_flatten(nest)
    copies = [
        leaf.clone() if isinstance(leaf, Tensor) and leaf_key(key, i) in plan.written else leaf
        for i, leaf in enumerate(leaves)
    ]
    return tree_unflatten(copies, structure)
