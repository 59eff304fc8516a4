"""Early exits for any trained classifier: its forward pass is cut into stages, and each cut gets an exit.

    stage k     the computation between two cuts; tensors that are needed later travel in the state
    exit k      a pooled, normalized view of the state and a new classifier (`suffice.attach.pooling`)
    last exit   the model's own classifier, unchanged

The stages run the model's own modules with the model's own weights, in the model's order: the last logits equal the
model's bit for bit.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from suffice.attach import contract
from suffice.attach.plain import UpToClassifier, as_exit_network, classifier_input
from suffice.attach.pooling import Pooling, Tap, new_exit
from suffice.attach.tracer import SIZES, Call, describe
from suffice.attach.tracing import CutError, Trace, ancestors, is_batched
from suffice.inputs import prepare
from suffice.network import Exit, ExitNetwork, State, batch_size, select
from suffice.twin import inference
from suffice.utils.modes import default_modes
from suffice.utils.nest import tree_leaves, tree_map_only
from suffice.utils.randomness import draw_from

_PASS_STAGES = "pass the stages instead, at=[first, second, …]: modules from state to state that compose to the model"


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
    """Attach early exits to a trained classifier; any loop can train them, such as `suffice.training.train`.

    Args:
        model: Classifier whose output is that of one linear layer (`suffice.attach.plain`). The network shares its
            modules and weights.
        at: Name or names of the modules (`model.named_modules()`) after which to attach an exit, in any order;
            `torch.fx` traces the model along the branches that the example takes. For a model that cannot be traced:
            its stages, modules from state to state that compose to the model, with an exit after each; the last exit
            is the model's own.
        example: Batch of inputs; a mapping becomes keyword arguments.
        num_classes: Expected number of classes, checked against the model's own classifier.
        pooling: Pooling of a state to φ at the new exits: "positions" averages (N, C, …) to (N, C), "tokens" averages
            (N, T, C), "class token" selects its first token, "none" takes (N, C) as it is; or a module with output
            (N, D), which is copied for each exit. None chooses by the number of dimensions; of tokens it selects the
            first, if the model's own classifier reads no other, else it averages them.
        freeze: Train only the new exits: the model's parameters require no gradient, and its modules stay in
            evaluation mode. Otherwise everything is trained.

    Returns:
        A network with an exit at each cut and the model's own exit last.

    Raises:
        TypeError: If `model` has exits already, or `at` holds neither names nor modules.
        ValueError: If a name is unknown, the pass cannot be cut (the message names the tensor or module that prevents
            it, and a remedy), the number of classes differs, or the pooling does not fit.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import suffice
        >>> model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
        >>> network = suffice.attach_exits(model, at=["1"], example=torch.zeros(2, 3))
        >>> [tuple(logits.shape) for logits in network(torch.zeros(5, 3))]
        [(5, 4), (5, 4)]
    """
    if isinstance(model, ExitNetwork):
        raise TypeError("expected a model without exits, got an ExitNetwork; attach them to the model itself")
    at, example = [at] if isinstance(at, str) else at, prepare(example, model)
    whole = as_exit_network(model, example)
    head = whole.exit(0).classifier
    if num_classes not in (None, head.out_features):
        raise ValueError(f"expected the {head.out_features} classes of the model's own classifier, got {num_classes}")
    with torch.no_grad():
        network = _with_exits(_cut(model, at, whole, example, freeze), head, example, pooling)
        contract.check(network, example)
        _check_same(network, whole, example, traced=isinstance(at[0], str))
    network.exits[:-1].train(model.training)
    if freeze:
        model.requires_grad_(False)
        network.stages = nn.ModuleList(Frozen(stage).eval() for stage in network.stages)
    return network


class Frozen(nn.Module):
    """Stage that stays in evaluation mode."""

    def __init__(self, stage: nn.Module) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, state: State) -> State:
        """Return the state after the stage."""
        return self.stage(state)

    def train(self, mode: bool = True) -> "Frozen":
        """Stay in evaluation mode and ignore `mode`."""
        del mode
        return super().train(False)


class OnCopy(nn.Module):
    """Stage that writes into its input, run on a copy."""

    def __init__(self, stage: nn.Module) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, state: State) -> State:
        """Return the state after the stage."""
        return self.stage(tree_map_only(Tensor, torch.clone, state))


class UpToHead(nn.Module):
    """Last stage up to the model's classifier: state → φ (N, D)."""

    def __init__(self, stage: nn.Module, classifier: str) -> None:
        super().__init__()
        self.stage = stage
        self.classifier = classifier

    def forward(self, state: State) -> Tensor:
        """Return the features φ (N, D) of a state."""
        return classifier_input(self.stage, self.classifier, lambda stage: stage(state))


@dataclass(frozen=True)
class _Cut:
    """Model cut into stages.

    Attributes:
        stages: K modules from state to state.
        taps: Name of the tensor that each exit reads from its state; None for the first floating one.
        tokens: Pooling of tokens that matches the model's own classifier.
    """

    stages: Sequence[nn.Module]
    taps: Sequence[str | None]
    tokens: Pooling


def _cut(model: nn.Module, at: Sequence[Any], whole: ExitNetwork, example: State, freeze: bool) -> _Cut:
    """Cut the model at the named modules, or take the given stages."""
    stage = whole.stages[0]
    assert isinstance(stage, UpToClassifier)
    if at and all(isinstance(place, str) for place in at):
        return _cut_by_name(model, at, stage.classifier, example, freeze)
    if at and all(isinstance(place, nn.Module) for place in at):
        return _cut_from_stages(at, whole.exit(0).classifier)
    raise TypeError(f"expected names of modules, or the stages as modules, got at={at!r}")


def _cut_from_stages(stages: Sequence[nn.Module], head: nn.Linear) -> _Cut:
    names = [name for name, module in stages[-1].named_modules() if module is head]
    if not names:
        raise ValueError(
            f"expected the model's own classifier ({head.in_features} → {head.out_features}) in the last stage, got "
            f"{type(stages[-1]).__name__} without it; modules in at=[…] are all stages of the model: let the "
            "last one return the model's logits, or pass names of modules to attach exits after them"
        )
    return _Cut([*stages[:-1], UpToHead(stages[-1], names[0])], [None] * len(stages), "tokens")


def _cut_by_name(model: nn.Module, at: Sequence[str], head: str, example: State, freeze: bool) -> _Cut:
    modules = dict(model.named_modules(remove_duplicate=False))
    for name in at:
        if name not in modules:
            nearest = difflib.get_close_matches(name, modules, n=3, cutoff=0.0)
            raise ValueError(
                f"expected names of modules, got {name!r}, which is not the name of a module; nearest: {nearest}"
            )
    trace = _trace(model, [*at, head], example, freeze)
    calls = [_only_call(trace, name) for name in at]
    calls.sort(key=lambda call: trace.nodes.index(call.end))
    last = _only_call(trace, head)
    (phi,) = (leaf for leaf in tree_leaves(last.inputs) if isinstance(leaf, fx.Node))
    taps = [*map(_tapped_node, calls), phi]
    try:
        stages = trace.stages([*calls, last], taps)
    except CutError as error:
        raise ValueError(f"expected {error}; choose other places, or {_PASS_STAGES}") from error
    tokens: Pooling = "class token" if _reads_only_first_token(trace, phi) else "tokens"
    return _Cut(stages, [node.name for node in taps], tokens)


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
            f"{_PASS_STAGES}"
        ) from error
    if str(training_trace) != str(trace):
        raise ValueError(
            f"expected a pass around {around} that is the same in training mode, got one that depends on "
            f"self.training; use modules such as nn.Dropout there, freeze=True, or {_PASS_STAGES}"
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
        if is_batched(node) and isinstance(node.meta["values"][0], Tensor):
            return node
    outputs = ", ".join(map(describe, nodes)) or "nothing"
    raise ValueError(
        f"expected {call.name!r} to return a tensor with the examples first, got {outputs}; choose another place"
    )


def _reads_only_first_token(trace: Trace, phi: fx.Node) -> bool:
    """Return whether φ depends only on the first of the last tokens (N, T, C) before it."""
    before = ancestors(phi)
    tokens = [node for node in trace.nodes if node in before and _is_tokens(node)]
    if not tokens:
        return False
    value = tokens[-1].meta["values"][0]
    changed = torch.cat([value[:, :1], -value[:, 1:].roll(1, dims=-1)], dim=1)
    return torch.equal(trace.value(phi, tokens[-1], value), trace.value(phi, tokens[-1], changed))


def _is_tokens(node: fx.Node) -> bool:
    value = node.meta["values"][0]
    return is_batched(node) and isinstance(value, Tensor) and value.ndim == 3 and value.is_floating_point()


def _with_exits(cut: _Cut, head: nn.Linear, example: State, pooling: Pooling | nn.Module | None) -> ExitNetwork:
    """Build the network: a new exit after each stage but the last; stages that write into their input run on a copy."""
    stages, exits = [], []
    state = select(example, torch.arange(2) % batch_size(example))
    for stage, name in zip(cut.stages, cut.taps, strict=True):
        with inference(stage) as twin:
            state, wrote = contract.run_and_detect_write(twin, state)
        stages.append(OnCopy(stage) if wrote else stage)
        tap = Tap(name)
        last = len(stages) == len(cut.stages)
        exits.append(Exit(tap, head) if last else new_exit(tap, state, pooling, cut.tokens, head))
    return ExitNetwork(stages, exits)


def _check_same(network: ExitNetwork, whole: ExitNetwork, example: State, traced: bool) -> None:
    """Raise a ValueError unless the last exit reproduces the model; some kernels round differently at each call."""
    with inference(network) as network_twin, inference(whole) as whole_twin:
        got, expected = network_twin(example)[-1], whole_twin(example)[0]
    tolerance = torch.finfo(expected.dtype).eps ** 0.75 * float(expected.abs().max())
    if not torch.allclose(got, expected, rtol=0, atol=tolerance):
        remedy = "check that the given stages compose to the model"
        if traced:
            branches = "forward() probably branches on something that torch.fx cannot trace, such as a tensor's type"
            remedy = f"{branches}: {_PASS_STAGES}"
        raise ValueError(
            "expected stages that reproduce the model, got a maximum logit difference of "
            f"{float((got - expected).abs().max()):.3g}; {remedy}"
        )
