"""Early exits for any trained classifier: its pass is cut into stages, and each cut gets an exit.

    stage k     what the model does between two cuts; tensors that are needed later travel in the state
    exit k      a pooled, normalised view of the state and a new classifier (`suffice.attach.pooling`)
    last exit   the model's own classifier, untouched

The stages run the model's own modules on the model's own weights, in its order: the last logits are the model's, bit
for bit.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from suffice.attach import contract
from suffice.attach.plain import UpToClassifier, as_exit_network, up_to
from suffice.attach.pooling import Pooling, Tap, new_exit
from suffice.attach.tracing import SIZES, Call, CutError, Trace, describe, made_of, travels
from suffice.network import Exit, ExitNetwork, State, batch_size, select
from suffice.twin import inference
from suffice.utils.modes import default_modes
from suffice.utils.nest import tree_leaves, tree_map_only
from suffice.utils.randomness import draw_from

_STAGES = "give the stages yourself, at=[first, second, …]: modules from state to state that together are the model"


@default_modes()
def attach_exits(
    model: nn.Module,
    at: str | Sequence[str] | Sequence[nn.Module],
    *,
    example: State,
    num_classes: int | None = None,
    pooling: Pooling | nn.Module | None = None,
    freeze: bool = True,
) -> ExitNetwork:
    """Give a trained classifier early exits, to be trained by any loop, such as `suffice.training.train`.

    Args:
        model: a classifier whose answer is that of one linear layer (`suffice.attach.plain`). The network shares its
            modules and weights.
        at: names of the modules (`model.named_modules()`), or one name, after which there are earlier exits; the
            model is traced by `torch.fx`, as its pass goes for the example. For a model that cannot be traced: its
            stages, modules from state to state that together are the model; there is an exit after each, the last
            being its own.
        example: a batch of inputs on the model's device, two examples or more; a mapping becomes keyword arguments.
        num_classes: C, if you want it checked against the model's own classifier.
        pooling: how a state becomes φ at the new exits: "positions" averages (N, C, …) to (N, C), "tokens"
            averages (N, T, C), "class token" takes its first, "none" is for (N, C); or a module to (N, D), of
            which each exit gets a copy. None: by the number of dimensions; of tokens the first, if that is all
            that the model's own classifier looks at, else their mean.
        freeze: train the new exits alone: the model's parameters ask for no gradient, and its modules stay in
            evaluation mode. Otherwise everything is trained.

    Returns:
        A network with an exit for each cut, and the model's own.

    Raises:
        TypeError: if `model` has exits already, or `at` is neither names nor modules.
        ValueError: if a name is not there, the pass cannot be cut (the message names the tensor or module in the
            way, and what to do), the classes are others, or the pooling does not fit.
    """
    if isinstance(model, ExitNetwork):
        raise TypeError("expected a model without exits, got an ExitNetwork; attach them to the model itself")
    at = [at] if isinstance(at, str) else at
    whole = as_exit_network(model, example)
    head = whole.exit(0).classifier
    if num_classes not in (None, head.out_features):
        raise ValueError(f"expected the {head.out_features} classes of the model's own classifier, got {num_classes}")
    with torch.no_grad():
        network = _with_exits(_cut(model, at, whole, example, freeze), head, example, pooling)
        contract.check(network, example)
        _check_same(network, whole, example)
    network.exits[:-1].train(model.training)
    if freeze:
        model.requires_grad_(False)
        network.stages = nn.ModuleList(Frozen(stage).eval() for stage in network.stages)
    return network


class Frozen(nn.Module):
    """A stage that stays in evaluation mode."""

    def __init__(self, stage: nn.Module) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, state: State) -> State:
        """What the stage makes of a state."""
        return self.stage(state)

    def train(self, mode: bool = True) -> "Frozen":
        """Evaluation mode, whatever is asked for."""
        del mode
        return super().train(False)


class OnCopy(nn.Module):
    """A stage that writes into what it is given, run on a copy."""

    def __init__(self, stage: nn.Module) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, state: State) -> State:
        """What the stage makes of a state."""
        return self.stage(tree_map_only(Tensor, torch.clone, state))


class UpToHead(nn.Module):
    """The last stage up to the model's classifier: state → φ (N, D)."""

    def __init__(self, stage: nn.Module, classifier: str) -> None:
        super().__init__()
        self.stage = stage
        self.classifier = classifier

    def forward(self, state: State) -> Tensor:
        """φ (N, D) of a state."""
        return up_to(self.stage, self.classifier, lambda stage: stage(state))


@dataclass(frozen=True)
class _Cut:
    """The stages of a model; what each exit reads of its state, the last one φ; how its own classifier pools tokens."""

    stages: Sequence[nn.Module]
    taps: Sequence[str | None]
    tokens: Pooling


def _cut(model: nn.Module, at: Sequence[Any], whole: ExitNetwork, example: State, freeze: bool) -> _Cut:
    """The model cut by name or as it was given."""
    stage = whole.stages[0]
    assert isinstance(stage, UpToClassifier)
    if at and all(isinstance(place, str) for place in at):
        return _by_name(model, at, stage.classifier, example, freeze)
    if at and all(isinstance(place, nn.Module) for place in at):
        return _as_given(at, whole.exit(0).classifier)
    raise TypeError(f"expected names of modules, or the stages as modules, got at={at!r}")


def _as_given(stages: Sequence[nn.Module], head: nn.Linear) -> _Cut:
    names = [name for name, module in stages[-1].named_modules() if module is head]
    if not names:
        raise ValueError(
            f"expected the model's own classifier ({head.in_features} → {head.out_features}) in the last stage, got "
            f"{type(stages[-1]).__name__} without it; let the last stage answer as the model does"
        )
    return _Cut([*stages[:-1], UpToHead(stages[-1], names[0])], [None] * len(stages), "tokens")


def _by_name(model: nn.Module, at: Sequence[str], head: str, example: State, freeze: bool) -> _Cut:
    modules = dict(model.named_modules(remove_duplicate=False))
    for name in at:
        if name not in modules:
            nearest = difflib.get_close_matches(name, modules, n=3, cutoff=0.0)
            raise ValueError(f"expected names of modules, got {name!r}, which is none; nearest: {nearest}")
    trace = _traced(model, [*at, head], example, freeze)
    calls = [_only_call(trace, name) for name in at]
    calls.sort(key=lambda call: trace.nodes.index(call.end))
    last = _only_call(trace, head)
    (phi,) = (leaf for leaf in tree_leaves(last.inputs) if isinstance(leaf, fx.Node))
    answers = [*map(_tapped, calls), phi]
    try:
        stages = trace.stages([*calls, last], answers)
    except CutError as error:
        raise ValueError(f"expected {error}; choose other places, or {_STAGES}") from error
    tokens: Pooling = "class token" if _first_token_alone(trace, phi) else "tokens"
    return _Cut(stages, [node.name for node in answers], tokens)


def _traced(model: nn.Module, watched: Sequence[str], example: State, freeze: bool) -> Trace:
    """The model's pass, which has to be the same in training where the model is to be trained."""
    batches = [select(example, torch.arange(size) % batch_size(example)) for size in SIZES]
    around = [*watched][:-1]
    try:
        trace = Trace(model, watched, batches)
        with draw_from(torch.Generator().manual_seed(0), example):
            other = trace if freeze else Trace(model, watched, batches, training=True)
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"expected a pass that torch.fx can trace around {around}, got {type(error).__name__}: {reason}; {_STAGES}"
        ) from error
    if str(other) != str(trace):
        raise ValueError(
            f"expected a pass around {around} that is the same in training, got one that asks self.training; use "
            f"modules such as nn.Dropout there, freeze=True, or {_STAGES}"
        )
    return trace


def _only_call(trace: Trace, name: str) -> Call:
    calls = trace.calls[name]
    if len(calls) != 1:
        raise ValueError(
            f"expected {name!r} to run once in a pass, got it run {len(calls)} times; choose another place"
        )
    return calls[0]


def _tapped(call: Call) -> fx.Node:
    """The first tensor in the output of a module."""
    nodes: list[fx.Node] = [leaf for leaf in tree_leaves(call.output) if isinstance(leaf, fx.Node)]
    for node in nodes:
        if travels(node) and isinstance(node.meta["values"][0], Tensor):
            return node
    found = ", ".join(map(describe, nodes)) or "nothing"
    raise ValueError(
        f"expected {call.name!r} to put out a tensor with the examples first, got {found}; choose another place"
    )


def _first_token_alone(trace: Trace, phi: fx.Node) -> bool:
    """Whether φ depends on the first token alone of the last tokens (N, T, C) that it is made of."""
    before = made_of(phi)
    tokens = [node for node in trace.nodes if node in before and _is_tokens(node)]
    if not tokens:
        return False
    value = tokens[-1].meta["values"][0]
    changed = torch.cat([value[:, :1], -value[:, 1:].roll(1, dims=-1)], dim=1)
    return torch.equal(trace.value(phi, tokens[-1], value), trace.value(phi, tokens[-1], changed))


def _is_tokens(node: fx.Node) -> bool:
    value = node.meta["values"][0]
    return travels(node) and isinstance(value, Tensor) and value.ndim == 3 and value.is_floating_point()


def _with_exits(cut: _Cut, head: nn.Linear, example: State, pooling: Pooling | nn.Module | None) -> ExitNetwork:
    """The stages, on a copy those that write into what they are given, with a new exit after each but the last."""
    stages, exits = [], []
    state = select(example, torch.arange(2) % batch_size(example))
    for stage, name in zip(cut.stages, cut.taps, strict=True):
        with inference(stage) as twin:
            state, wrote = contract.writes(twin, state)
        stages.append(OnCopy(stage) if wrote else stage)
        tap = Tap(name)
        last = len(stages) == len(cut.stages)
        exits.append(Exit(tap, head) if last else new_exit(tap, state, pooling, cut.tokens, head))
    return ExitNetwork(stages, exits)


def _check_same(network: ExitNetwork, whole: ExitNetwork, example: State) -> None:
    """Raise a ValueError unless the last exit says what the model says; kernels may round differently each time."""
    with inference(network) as ours, inference(whole) as theirs:
        got, expected = ours(example)[-1], theirs(example)[0]
    tolerance = torch.finfo(expected.dtype).eps ** 0.75 * float(expected.abs().max())
    if not torch.allclose(got, expected, rtol=0, atol=tolerance):
        raise ValueError(
            f"expected stages that together are the model, got logits up to {float((got - expected).abs().max()):.3g} "
            f"away from the model's; the pass asks what a trace cannot see, such as the type of a tensor: {_STAGES}"
        )
