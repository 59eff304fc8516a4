"""Stages without a trace: the model's own forward pass runs again, with outputs recorded earlier in place of modules.

    stage k   the pass from its beginning; modules that ran before cut k − 1 return what they returned then, for the
              rows that are still in flight; the pass ends behind cut k, or before the classifier
    state     the outputs that later stages read, and the shapes of all others (`suffice.attach.cutting.blank`)

What lies between modules (masks, shapes, conditions) is computed again by each stage, and is cheap. So a model may use
any control flow of Python, caches, plain values, and modules made in its forward pass.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from suffice.attach.cutting.blank import BlankValueError, origins_of
from suffice.attach.cutting.packing import pack, raise_missing, unpack
from suffice.attach.cutting.plan import Plan, first_tensor, input_values, inputs_of, is_input, key_of, leaf_key
from suffice.attach.interception import Handler, Known, Reached, intercepted, tracer_stack_restored
from suffice.attach.whole import Batch, WholePass, current_batch
from suffice.network import State, batch_size, call, output_tensor
from suffice.twin import Twin, is_twin
from suffice.utils.nest import tree_flatten, tree_unflatten

TAP = "output"
"""Key in a state of the tensor that its exit reads."""


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
            examples, device = state[TAP].shape[0], state[TAP].device
            values = unpack(state["kept"], state["outlines"], self.plan.layouts, examples, device)
        until = self.plan.cuts[self.k] if self.k < len(self.plan.cuts) else None
        batch = current_batch()
        if self.k == 0 and batch is not None:
            batch.run = lambda handle: run(model, self.plan, values, None, handle).output
        try:
            result = run(model, self.plan, values, until)
        except BlankValueError as error:
            raise_missing(error.origins)
        if until is None:
            missing = origins_of(result.output)
            if missing:
                raise_missing(missing)
            if batch is not None:
                self._compare(model, values, result.output, batch)
            return result.output
        kept, outlines = pack({**values, **result.records}, self.plan, self.k, examples)
        return {TAP: first_tensor(result.output), "kept": kept, "outlines": outlines}

    def _compare(self, model: nn.Module, values: Mapping[str, Any], phi: Tensor, batch: Batch) -> None:
        """Compare the last exit with what the model returns if its last part runs on to the end.

        If that reads outputs that the state left out, the model's whole pass runs.
        """
        plan, whole = self.plan, WholePass(self.plan.classifier)
        try:
            output = run(model, plan, values, None, whole.handle).output
            missing = bool(origins_of(output))
        except BlankValueError:
            missing = True
        if missing:
            assert batch.run is not None
            whole = WholePass(plan.classifier)
            output = batch.run(whole.handle)
        layer = model.get_submodule(plan.classifier)
        assert isinstance(layer, nn.Linear)
        if plan.selects or missing:  # in another pass, kernels may round otherwise
            whole.check_selected(phi, layer, output)
        else:
            whole.features(output)

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


def run(
    model: nn.Module, plan: Plan, values: Mapping[str, Any], until: str | None, at_classifier: Handler | None = None
) -> PartialPass:
    """Run a model's pass with recorded outputs in place of modules.

    Args:
        model: Twin of the model.
        plan: Places to watch.
        values: Inputs and outputs by key; a module whose output is among them does not run.
        until: Name of the module behind which the pass ends; None ends it before the classifier.
        at_classifier: Function that answers the classifier in place of this end; the pass runs on.
    """
    recorder = _Recorder(plan, values, until, at_classifier)
    modules = {name: model.get_submodule(name) for name in plan.watched}
    try:
        with tracer_stack_restored(), intercepted(modules, recorder.handle, recorder.finished):
            inputs = {key: _own_copies(key, value, plan) for key, value in values.items() if is_input(key)}
            output = output_tensor(call(model, inputs_of(inputs)))
    except Reached as reached:
        output = reached.output
        if until is not None:
            recorder.records[key_of(until, 0)] = output
        return PartialPass(output, recorder.records)
    if until is not None or not (plan.selects or at_classifier):
        raise RuntimeError(f"expected a pass to reach {until or plan.classifier!r}, got one that did not")
    return PartialPass(output, recorder.records)


class _Recorder:
    """Calls of the watched modules in one pass, for `suffice.attach.interception`; arguments are those of `run`.

    Attributes:
        records: Outputs of the modules that have run, by key, as their hooks have left them.
    """

    def __init__(self, plan: Plan, values: Mapping[str, Any], until: str | None, at_classifier: Handler | None) -> None:
        self._plan, self._values, self._until, self._at_classifier = plan, values, until, at_classifier
        self._counts, self._running = Counter[str](), list[str]()
        self.records: dict[str, Any] = {}

    def handle(self, name: str, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return the recorded output of a module, or let it run."""
        key = key_of(name, self._counts[name])
        self._counts[name] += 1
        if key in self._values:
            return Known(_own_copies(key, self._values[key], self._plan))
        if name == self._plan.classifier:
            return self._classify(name, forward, args, kwargs)
        self._running.append(key)
        return forward(*args, **kwargs)

    def finished(self, name: str, output: Any) -> None:
        """Record the output of a module, or end the pass behind it."""
        if name == self._until:
            raise Reached(output)
        if name != self._plan.classifier:
            key = self._running.pop()
            self.records[key] = _own_copies(key, output, self._plan)

    def _classify(self, name: str, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return what stands for the output of the classifier, or end the pass before it."""
        if self._at_classifier is not None:
            return self._at_classifier(name, forward, args, kwargs)
        phi = args[0] if args else kwargs["input"]
        if self._plan.selects:
            return phi
        raise Reached(phi)


def _own_copies(key: str, nest: Any, plan: Plan) -> Any:
    """Return a nest with copies of the tensors that the model writes into, so that a state keeps the first values."""
    leaves, structure = tree_flatten(nest)
    copies = [
        leaf.clone() if isinstance(leaf, Tensor) and leaf_key(key, i) in plan.written else leaf
        for i, leaf in enumerate(leaves)
    ]
    return tree_unflatten(copies, structure)
