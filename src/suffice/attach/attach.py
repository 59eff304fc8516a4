"""Early exits for any trained classifier: its forward pass is cut into stages, and each cut gets an exit.

    stage k     the computation between two cuts; tensors that are needed later travel in the state
    exit k      a pooled, normalized view of the state and a new classifier (`suffice.attach.pooling`)
    last exit   the model's own classifier, unchanged

The stages run the model's own modules with the model's own weights, in the model's order: the last logits equal the
model's bit for bit.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from suffice.attach import contract
from suffice.attach.cutting import ways
from suffice.attach.cutting.ways import Cut
from suffice.attach.determinism import check_deterministic
from suffice.attach.plain import UpToClassifier, as_exit_network
from suffice.attach.pooling import Pooling, Tap, new_exit
from suffice.attach.tokens.layout import Layouts
from suffice.attach.tokens.masks import MASK, Reading, WithMask
from suffice.attach.tokens.reading import UnmarkedError, read_tokens
from suffice.inputs import noted, prepare
from suffice.network import Exit, ExitNetwork, State, batch_size, select
from suffice.twin import inference
from suffice.utils.arguments import flag
from suffice.utils.modes import default_modes
from suffice.utils.nest import tree_map_only


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
        ValueError: If the model draws random numbers in evaluation mode, a name is unknown, the pass cannot be cut (the
            message names the tensor or module that prevents it, and a remedy), the number of classes differs, or the
            pooling does not fit.

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
    with noted(example):
        whole = as_exit_network(model, example)
    check_deterministic(model, example)
    head = whole.exit(0).classifier
    if num_classes not in (None, head.out_features):
        raise ValueError(f"expected the {head.out_features} classes of the model's own classifier, got {num_classes}")
    with torch.no_grad():
        network = _attached(model, at, whole, example, pooling, freeze)
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


class SameInputs(nn.Module):
    """First stage of a traced pass, which reads exactly the inputs of the example."""

    def __init__(self, stage: nn.Module, keys: Iterable[str] | None) -> None:
        super().__init__()
        self.stage = stage
        self.keys = None if keys is None else frozenset(keys)

    def forward(self, inputs: State) -> State:
        """Return the state after the stage.

        Raises:
            ValueError: If the inputs have other keys than the example.
        """
        keys = frozenset(inputs) if isinstance(inputs, Mapping) else None
        if keys != self.keys:
            raise ValueError(
                f"expected inputs as in the example of suffice.attach_exits, {_describe(self.keys)}, got "
                f"{_describe(keys)}; pass the same ones, or attach the exits with an example that has these"
            )
        return self.stage(inputs)


def _describe(keys: frozenset[str] | None) -> str:
    return "a tensor" if keys is None else f"the keys {sorted(keys)}"


def _attached(
    model: nn.Module, at: Sequence[Any], whole: ExitNetwork, example: State, pooling: Pooling | nn.Module | None,
    freeze: bool,
) -> ExitNetwork:  # fmt: skip
    """Cut the model at the named modules, or take the given stages, and add exits."""
    flag("freeze", freeze)
    stage, head = whole.stages[0], whole.exit(0).classifier
    assert isinstance(stage, UpToClassifier)
    if not isinstance(at, Iterable):
        raise TypeError(f"expected names of modules, or the stages as modules, got at={at!r}")
    if at and all(isinstance(place, str) for place in at):
        return _cut_in_turn(model, at, whole, example, pooling, freeze)
    if at and all(isinstance(place, nn.Module) for place in at):
        reading = _reading(model, stage, example, pooling)
        return _checked(ways.as_given(at, head, stage.selects), whole, head, example, pooling, reading)
    raise TypeError(f"expected names of modules, or the stages as modules, got at={at!r}")


def _cut_in_turn(
    model: nn.Module, at: Sequence[str], whole: ExitNetwork, example: State, pooling: Pooling | nn.Module | None,
    freeze: bool,
) -> ExitNetwork:  # fmt: skip
    """Return the first network that reproduces the model: from a trace, or by running its code again.

    A trace that fixes decisions of the pass is taken only if the code cannot run again.
    """
    stage = whole.stages[0]
    assert isinstance(stage, UpToClassifier)
    ways.check_names(model, at)
    head, reading = whole.exit(0).classifier, _reading(model, stage, example, pooling)
    traced = None
    if not stage.selects:
        try:
            cut = ways.by_trace(model, at, stage, example, freeze)
            keys = example if isinstance(example, Mapping) else None
            cut = replace(cut, stages=[SameInputs(cut.stages[0], keys), *cut.stages[1:]])
            traced = _checked(cut, whole, head, example, pooling, reading)
            if not (freeze and cut.fixes):
                return traced
        except ValueError:
            if not freeze:
                raise
    elif not freeze:
        raise ValueError(
            "expected freeze=True for a model that selects positions from its classifier's output, got False; train "
            f"the exits alone, or {ways.PASS_STAGES}"
        )
    try:
        return _checked(ways.by_replay(model, at, stage, example), whole, head, example, pooling, reading)
    except ValueError:
        if traced is None:
            raise
        return traced


def _reading(model: nn.Module, whole: UpToClassifier, example: State, pooling: object) -> Reading:
    """Return how the model's own pooling reads its tokens; it does not matter if a pooling is given."""
    try:
        return read_tokens(model, whole, example)
    except UnmarkedError as error:
        if pooling is None:
            raise ValueError(
                f"expected a pooling of tokens that an input of the model marks, got {error}; pass pooling=…, a module "
                "that leaves out the same tokens, or attach exits where there are no tokens"
            ) from error
        return Reading("tokens")


def _checked(
    cut: Cut, whole: ExitNetwork, head: nn.Linear, example: State, pooling: Pooling | nn.Module | None, reading: Reading
) -> ExitNetwork:
    """Build a network from a cut, and check it on the example."""
    network = _with_exits(cut, head, example, pooling, reading)
    contract.check(network, example)
    _check_same(network, whole, example)
    return network


def _with_exits(
    cut: Cut, head: nn.Linear, example: State, pooling: Pooling | nn.Module | None, reading: Reading
) -> ExitNetwork:
    """Build the network: a new exit after each stage but the last; stages that write into their input run on a copy."""
    stages, exits = [], []
    state, layouts = select(example, torch.arange(2) % batch_size(example)), Layouts(2)
    given = [*cut.stages]
    if reading.mask is not None and None not in cut.taps[:-1]:  # states of given stages are the user's own
        masks = [reading.mask, *(None for _ in given[2:])]
        given = [WithMask(*each) for each in zip(given[:-1], masks, cut.taps[:-1], strict=True)] + given[-1:]
    with inference(nn.ModuleList(given)) as twins:
        for stage, twin, name in zip(given, twins, cut.taps, strict=True):
            inputs = state
            with layouts.recording(twin):
                state, wrote = contract.run_and_detect_write(twin, state)
            stages.append(OnCopy(stage) if wrote else stage)
            tap = Tap(name)
            if len(stages) == len(given):
                exits.append(Exit(tap, head))
                break
            tensor = tap(state)
            layout = layouts.of(tensor, cut.ends[len(exits)]) if tensor.ndim == 3 else "tokens"
            if layout == "channels first" and isinstance(stage, WithMask) and stage.mask is not None:
                stage.dimension = 2
                state = {**state, MASK: stage.mask(inputs, tensor.shape[2]).to(tensor.device)}
            exits.append(new_exit(tap, state, pooling, reading, head, layout))
    return ExitNetwork(stages, exits)


def _check_same(network: ExitNetwork, whole: ExitNetwork, example: State) -> None:
    """Raise a ValueError unless the last exit reproduces the model; some kernels round differently at each call."""
    with inference(network) as network_twin, inference(whole) as whole_twin:
        got, expected = network_twin(example)[-1], whole_twin(example)[0]
    tolerance = torch.finfo(expected.dtype).eps ** 0.75 * float(expected.abs().max())
    if not torch.allclose(got, expected, rtol=0, atol=tolerance):
        raise ValueError(
            "expected stages that reproduce the model, got a maximum logit difference of "
            f"{float((got - expected).abs().max()):.3g}; check that the given stages compose to the model"
        )
