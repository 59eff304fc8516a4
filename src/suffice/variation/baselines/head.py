"""Search for the head of a model, its last linear layers, and the spread under the dropout on their inputs.

The head ends at the model's output and goes back over at most three linear layers, with an activation of known slope
and dropout before each. It begins at any other operation. Dropout elsewhere, also between a linear layer and its
activation, does not count; `head_spread` warns of it. `suffice.variation.baselines.margins` holds the mathematics.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from suffice.attach.classifier import find_classifier
from suffice.inputs import prepare
from suffice.network import ExitNetwork, State, call, check_finite, select
from suffice.network import batch_size as rows_of
from suffice.twin import inference
from suffice.variation.baselines import margins, tracing
from suffice.variation.baselines.elsewhere import dropout_before, elsewhere, listed
from suffice.variation.baselines.exact import computes_as
from suffice.variation.baselines.head_layers import Head, num_margins
from suffice.variation.baselines.tracing import Step
from suffice.variation.teachers import sites
from suffice.variation.teachers.spreads import LikelihoodName, check_likelihood, finite_outputs

_MOST_LAYERS = 3
_MOST_OUTPUTS = 64
"""Largest number of predicted numbers or labels, each of which has gradients of its own."""
_MOST_MARGINS = 32
"""Largest number of margins of `head_spread`."""


def find_head(
    model: nn.Module,
    x: State,
    at: str | Sequence[str] | None = None,
    rate: float | None = None,
    likelihood: LikelihoodName = "classification",
    most: int = margins.MARGINS,
) -> Head:
    """Find the head of a model, and the dropout on the inputs of its layers.

    Args:
        model: Model with outputs as for `MCDropout`; only twins of it run.
        x: Batch of inputs, of which three examples run.
        at: Names or patterns of the modules that drop, as for `MCDropout`.
        rate: Probability of dropping a unit; None for the rate of each dropout module.
        likelihood: Meaning of the model's output.
        most: Largest number of margins of a classification.

    Raises:
        TypeError: If the model's output is not a tensor.
        ValueError: If the output is not that of an `nn.Linear` that runs once, if none of the dropout acts on the
            inputs of the head's layers, for more than 64 predicted numbers or labels, and as `MCDropout` does for the
            model, the names and the rate.
    """
    return _find(model, x, at, rate, likelihood, most)[0]


def head_spread(
    model: nn.Module,
    x: State,
    at: str | Sequence[str] | None = None,
    rate: float | None = None,
    likelihood: LikelihoodName = "classification",
) -> Tensor:
    """Return the spread "std" (N,) float64 under dropout of the head, in one pass and without a gradient.

    Arguments and errors are those of `find_head`; x are all N examples. There are up to 32 margins, many more than an
    estimator reads. A spread that is not finite raises a ValueError. Dropout outside the head adds to the spread of the
    model and not to this one, so a warning names it; `at=[…]` leaves it out on purpose.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from suffice.variation.baselines.head import head_spread
        >>> model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 4))
        >>> head_spread(model, torch.randn(6, 3)).shape
        torch.Size([6])
    """
    spread, others = spread_and_rest(model, x, at, rate, likelihood)
    if others:
        warnings.warn(
            f"expected dropout on the inputs of the last linear layers alone, got dropout also at {listed(others)}, "
            "whose part of the spread is missing; name the dropout of the head, at=[…], to leave it out on purpose, or "
            "use MCDropout or fit_variation for all of it",
            stacklevel=2,
        )
    return spread


def spread_and_rest(
    model: nn.Module, x: State, at: str | Sequence[str] | None, rate: float | None, likelihood: LikelihoodName
) -> tuple[Tensor, list[str]]:
    """Return the spread as `head_spread` does, and the names of the modules whose dropout it leaves out."""
    head, others = _find(model, x, at, rate, likelihood, _MOST_MARGINS)
    with inference(model) as twin:
        with head.recording(twin) as recorded:
            output = call(twin, prepare(x, model))
        spread = head.spreads(finite_outputs(output, likelihood), recorded, likelihood)[:, 0].double()
        check_finite(spread, "spreads under dropout of the head")
        return spread, others()


def _find(
    model: nn.Module,
    x: State,
    at: str | Sequence[str] | None,
    rate: float | None,
    likelihood: LikelihoodName,
    most: int,
) -> tuple[Head, Callable[[], list[str]]]:
    """Return the head, and a function that finds the dropout elsewhere by further passes; arguments as `find_head`."""
    check_likelihood(likelihood)
    with inference(model) as twin:
        x = prepare(x, model)
        x = select(x, torch.arange(min(3, rows_of(x))))
        name = _classifier(twin, x)
        chosen = sites.find(twin, x, rate, at)
        traced = tracing.trace(twin, x, chosen)
        outputs = finite_outputs(traced.output, likelihood)
        if likelihood != "classification" and outputs.shape[1] > _MOST_OUTPUTS:
            raise ValueError(f"expected at most {_MOST_OUTPUTS} outputs for the margins, got {outputs.shape[1]}")
        links, end = _chain(twin, name, traced.linear)
        first = links[-1].name
        while links and not links[-1].rate:
            links.pop()
        if not links:
            raise ValueError(
                f"expected dropout on the inputs of the last linear layers, {name!r} and those right before it, got "
                f"dropout at {chosen.names}, which is elsewhere: these layers begin with {first!r}, {end}; leave the "
                "margins out"
            )
        points = margins.normal_points(num_margins(outputs.shape[1], likelihood, most)).to(outputs.device)
        activations = tuple(link.activation for link in links[1:])
        names, rates = tuple(link.name for link in links), tuple(link.rate for link in links)
        head = Head(names, rates, activations, points, (None,) * (len(links) - 1))
        described = [number for link in links for number in link.numbers]

    def others() -> list[str]:
        with inference(twin):
            return elsewhere(twin, x, chosen, traced, described)

    return head, others


def _classifier(model: nn.Module, x: State) -> str:
    """Return the name of the linear layer whose output is that of a twin."""
    if isinstance(model, ExitNetwork):
        classifier = model.exit(len(model.exits) - 1).classifier
        names: list[str] = [name for name, module in model.named_modules() if module is classifier]
        return names[0]
    name, selects = find_classifier(model, x)
    if selects:
        raise ValueError(f"expected the output of {name!r} as the model's, got a selection of its positions")
    return name


@dataclass(frozen=True)
class _Link:
    """Linear layer of a head: its name, the dropout on its inputs, and the activation behind it.

    Attributes:
        name: Name of the layer.
        rate: Rate of all dropout on its inputs; 0 for none.
        activation: Name of the activation between the layer and the one that follows it; "" for the last layer.
        numbers: Numbers of the dropouts on its inputs.
    """

    name: str
    rate: float
    activation: str
    numbers: list[int]


def _chain(model: nn.Module, name: str, runs: dict[str, list[Step]]) -> tuple[list[_Link], str]:
    """Return the layers of the head, the last one first, and why it begins where it does."""
    obstacle = _obstacle(model, name, runs)
    if obstacle:
        raise ValueError(
            f"expected an nn.Linear with inputs (N, D) that runs once as the last layer, got {name!r}, {obstacle}"
        )
    links, step, activation = list[_Link](), runs[name][0], ""
    while True:
        numbers, rate, inner = dropout_before(step)
        if rate >= 1:
            raise ValueError(f"expected dropout on the inputs of {step.name!r} at a rate below 1, got {rate:g}")
        links.append(_Link(step.name, rate, activation, numbers))
        activation = "identity"
        if inner is not None and inner.kind == "activation":
            activation, inner = inner.name, inner.before
        end = _end(model, inner, runs)
        if len(links) == _MOST_LAYERS:
            end = "as the head has at most three"
        if end or inner is None:
            return links, end
        step = inner


def _end(model: nn.Module, inner: Step | None, runs: dict[str, list[Step]]) -> str:
    """Return why a step before a layer is no further layer of the head, or nothing if it is one."""
    if inner is None:
        return "as what is before it is the input, or is written into"
    if inner.kind == "linear":
        obstacle = _obstacle(model, inner.name, runs)
        return f"as {inner.name!r} before it is a layer {obstacle}" if obstacle else ""
    if inner.kind == "dropout":
        return "as dropout between a layer and its activation does not count"
    return f"as {inner.name} before it is no activation whose slope is known"


def _obstacle(model: nn.Module, name: str, runs: dict[str, list[Step]]) -> str:
    """Return why the formula of a linear layer does not hold for a module of that name, or nothing if it does."""
    layer, count = model.get_submodule(name), len(runs.get(name, []))
    if count != 1:
        return f"which runs {count} times" if count else "whose inputs are not (N, D)"
    if computes_as(layer, nn.Linear):
        return ""
    if nn.utils.parametrize.is_parametrized(layer):
        return (
            "whose weight a parametrization computes at each access, such as weight_norm; fold it in for inference, "
            "torch.nn.utils.parametrize.remove_parametrizations(layer, 'weight')"
        )
    if layer._forward_pre_hooks or layer._forward_hooks:
        return "with hooks, such as those of torch.nn.utils.weight_norm; remove_weight_norm(layer) folds that in"
    return f"whose class {type(layer).__name__} may compute something else than an nn.Linear"
