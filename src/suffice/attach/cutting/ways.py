"""Ways to cut a model's pass into stages: from a trace of it, by running it again, or as given by the user.

A trace is tried first. It cannot follow all Python code, or fixes decisions that other inputs change, and then each
stage runs the model's own code again (`suffice.attach.cutting.replay`), which costs what lies between the modules.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import fx, nn

from suffice.attach.cutting import planning, replay
from suffice.attach.cutting.tracer import SIZES, Call, describe
from suffice.attach.cutting.tracing import CutError, Trace, is_batched
from suffice.attach.plain import UpToClassifier, classifier_input
from suffice.network import State, batch_size, select
from suffice.utils.nest import tree_leaves
from suffice.utils.randomness import draw_from

PASS_STAGES = "pass the stages instead, at=[first, second, …]: modules from state to state that compose to the model"


@dataclass(frozen=True)
class Cut:
    """Model cut into stages.

    Attributes:
        stages: K modules from state to state.
        taps: Name of the tensor that each exit reads from its state; None for the first floating one.
        ends: Module at the end of each stage but the last.
        fixes: Whether the cut holds only for inputs of the example's sizes and plain values; others are refused.
    """

    stages: Sequence[nn.Module]
    taps: Sequence[str | None]
    ends: Sequence[nn.Module]
    fixes: bool = False


class UpToHead(nn.Module):
    """Last stage up to the model's classifier: state → φ (N, D)."""

    def __init__(self, stage: nn.Module, classifier: str, selects: bool) -> None:
        super().__init__()
        self.stage = stage
        self.classifier = classifier
        self.selects = selects

    def forward(self, state: State) -> torch.Tensor:
        """Return the features φ (N, D) of a state."""
        return classifier_input(self.stage, self.classifier, lambda stage: stage(state), self.selects)


def check_names(model: nn.Module, at: Sequence[str]) -> None:
    """Raise a ValueError for a name that no module has; the nearest names are listed."""
    modules = dict(model.named_modules(remove_duplicate=False))
    for name in at:
        if not name or name not in modules:
            nearest = difflib.get_close_matches(name, modules, n=3, cutoff=0.4)
            raise ValueError(
                f"expected names of modules, got {name!r}, which is not the name of a module; "
                + (f"nearest: {nearest}" if nearest else "model.named_modules() lists them")
            )


def as_given(stages: Sequence[nn.Module], head: nn.Linear, selects: bool) -> Cut:
    """Return given stages as a cut.

    Raises:
        ValueError: If the last stage has no classifier `head`.
    """
    names = [name for name, module in stages[-1].named_modules() if module is head]
    if not names:
        raise ValueError(
            f"expected the model's own classifier ({head.in_features} → {head.out_features}) in the last stage, got "
            f"{type(stages[-1]).__name__} without it; modules in at=[…] are all stages of the model: let the "
            "last one return the model's logits, or pass names of modules to attach exits after them"
        )
    return Cut([*stages[:-1], UpToHead(stages[-1], names[0], selects)], [None] * len(stages), stages[:-1])


def by_replay(model: nn.Module, at: Sequence[str], whole: UpToClassifier, example: State) -> Cut:
    """Cut a model at named modules; each stage runs the model's own code again.

    Raises:
        ValueError: If the pass cannot be cut.
    """
    batches = [select(example, torch.arange(size) % batch_size(example)) for size in SIZES]
    try:
        plan = planning.make_plan(model, at, whole.classifier, whole.selects, batches)
    except planning.PlanError as error:
        raise ValueError(f"expected {error}; choose other places, or {PASS_STAGES}") from error
    stages = [replay.Stage(model, plan, k) for k in range(len(plan.cuts) + 1)]
    ends = [model.get_submodule(name) for name in plan.cuts]
    return Cut(stages, [*(replay.TAP for _ in plan.cuts), None], ends)


def by_trace(model: nn.Module, at: Sequence[str], whole: UpToClassifier, example: State, freeze: bool) -> Cut:
    """Cut the trace of a model at named modules.

    Raises:
        ValueError: If the pass cannot be traced or cut, or, unless the model is frozen, differs in training mode.
    """
    head = whole.classifier
    trace = _trace(model, [*at, head], example, freeze)
    calls = [_only_call(trace, name) for name in at]
    calls.sort(key=lambda call: trace.nodes.index(call.end))
    last = _only_call(trace, head)
    (phi,) = (leaf for leaf in tree_leaves(last.inputs) if isinstance(leaf, fx.Node))
    taps = [*map(_tapped_node, calls), phi]
    try:
        stages = trace.stages([*calls, last], taps)
    except CutError as error:
        raise ValueError(f"expected {error}; choose other places, or {PASS_STAGES}") from error
    ends = [model.get_submodule(call.name) for call in calls]
    return Cut(stages, [node.name for node in taps], ends, trace.fixes)


def _trace(model: nn.Module, watched: Sequence[str], example: State, freeze: bool) -> Trace:
    """Trace the model's pass; unless the model is frozen, the pass must be the same in training mode."""
    batches = [select(example, torch.arange(size) % batch_size(example)) for size in SIZES]
    around = [*watched][:-1]
    try:
        trace = Trace(model, watched, batches)
        with draw_from(torch.Generator().manual_seed(0), example):
            training_trace = trace if freeze else Trace(model, watched, batches, training=True)
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"expected a pass that torch.fx can trace around {around}, got {type(error).__name__}: {reason}; "
            f"{PASS_STAGES}"
        ) from error
    if str(training_trace) != str(trace):
        raise ValueError(
            f"expected a pass around {around} that is the same in training mode, got one that depends on "
            f"self.training; use modules such as nn.Dropout there, freeze=True, or {PASS_STAGES}"
        )
    return trace


def _only_call(trace: Trace, name: str) -> Call:
    calls = trace.calls[name]
    if len(calls) != 1:
        raise ValueError(f"expected {name!r} to run once in a pass, got {len(calls)} runs; choose another place")
    return calls[0]


def _tapped_node(call: Call) -> fx.Node:
    """Return the node of the first tensor in the output of a module."""
    nodes: list[fx.Node] = [leaf for leaf in tree_leaves(call.output) if isinstance(leaf, fx.Node)]
    for node in nodes:
        if is_batched(node) and isinstance(node.meta["values"][0], torch.Tensor):
            return node
    outputs = ", ".join(map(describe, nodes)) or "nothing"
    raise ValueError(
        f"expected {call.name!r} to return a tensor with the examples first, got {outputs}; choose another place"
    )
