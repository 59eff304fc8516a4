"""Check that a pass in evaluation mode is deterministic, which everything that is learned from a model relies on.

Dropout that stays on in evaluation mode, or noise that is drawn there, gives another output at each call. A pass on two
examples shows which operations draw random numbers and in which modules (`suffice.utils.draws`). If torch draws any,
further passes show whether they matter: with every number at its least and at its greatest value, and with other seeds.
Numbers of Python, NumPy and the operating system cannot be replaced, and an event that is rare would be missed, so that
drawing them at all counts.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from suffice.network import State, batch_size, call, output_tensor, select
from suffice.twin import Twin, inference
from suffice.utils.draws import Draw, Draws, Extreme, ForeignDraws, module_names
from suffice.utils.nest import tree_leaves, tree_map_only
from suffice.utils.randomness import draw_from

_SEEDS = 16
"""Number of passes with other seeds, for numbers that matter neither at their least nor at their greatest value."""

_ROUNDS = 3
"""Number of times that draws of Python and NumPy are told from those of other threads."""


@dataclass
class Pass:
    """Pass of a fresh twin that can be observed.

    Attributes:
        twin: Twin that runs.
        run: Function that runs it once and returns its output.
        tensors: Tensors on the devices that it computes on.
    """

    twin: Twin[nn.Module]
    run: Callable[[], Any]
    tensors: Any


@dataclass
class Observation:
    """Observed draws of a pass.

    Attributes:
        output: Output of the pass.
        seen: All operations that drew random numbers.
        effective: Those of torch if their numbers change the output, and all others.
    """

    output: Any
    seen: list[Draw] = field(default_factory=list)
    effective: list[Draw] = field(default_factory=list)


def check_deterministic(model: nn.Module, x: State) -> None:
    """Raise a ValueError unless a pass in evaluation mode has the same output at each call.

    Args:
        model: Model; only a twin of it runs, on two examples.
        x: Batch of inputs on the model's device.

    Raises:
        ValueError: If it has not; operations that draw random numbers are named with their modules.
    """
    sample = select(x, torch.arange(2) % batch_size(x))
    with inference(model) as twin:
        observation = observe(lambda: evaluation_pass(twin, sample))
        refuse_draws(observation.effective)
        if _differ(observation.output, _run(evaluation_pass(twin, sample))):
            raise ValueError(
                "expected a model whose output in evaluation mode is the same at each call, got two outputs for the "
                "same inputs; look for random numbers of another library, or a state that each call changes"
            )


def refuse_draws(draws: list[Draw]) -> None:
    """Raise a ValueError that names the draws of a pass in evaluation mode, if there are any."""
    if draws:
        raise ValueError(
            f"expected a model that is deterministic in evaluation mode, got random numbers from {listed(draws)}; "
            "call functional dropout with training=self.training, and draw noise only in training mode"
        )


def evaluation_pass(model: nn.Module, x: State) -> Pass:
    """Return a pass of a fresh twin of a model in evaluation mode, on a copy of the inputs."""
    twin, x = Twin(model), tree_map_only(Tensor, torch.clone, x)
    return Pass(twin, lambda: call(twin.model, x), [x, *model.parameters()])


def observe(prepare: Callable[[], Pass]) -> Observation:
    """Observe which random numbers a pass draws, and whether they change its output.

    The numbers come from a private generator: torch's default generators stay as they are.

    Args:
        prepare: Function that returns a pass of a fresh twin; further passes run only if the first one draws.
    """
    started = time.perf_counter()
    output, draws, foreign = _observed(prepare())
    foreign = _repeated(foreign, prepare, time.perf_counter() - started)
    seen = list(dict.fromkeys([*draws.seen, *foreign]))
    effective = seen if _matter(draws, output, prepare) else foreign
    return Observation(output, seen, effective)


def _repeated(foreign: list[Draw], prepare: Callable[[], Pass], seconds: float) -> list[Draw]:
    """Return the draws from generators of other libraries that every pass repeats, and that other threads do not make.

    Args:
        foreign: Draws of a first pass; an import may draw in that one only.
        prepare: Function that returns a pass of a fresh twin.
        seconds: Duration of a pass, for which the draws of other threads are observed without a pass.
    """
    for _ in range(_ROUNDS):
        if not foreign:
            break
        with ForeignDraws() as others:
            time.sleep(seconds)
        again = _observed(prepare())[2]
        foreign = [draw for draw in foreign if draw in again and draw not in others.seen]
    return foreign


def _matter(draws: Draws, output: Any, prepare: Callable[[], Pass]) -> bool:
    """Return whether numbers that torch drew in a pass change its output."""
    if not draws.seen or not draws.replaceable:
        return bool(draws.seen)
    extremes: tuple[Extreme, Extreme] = ("least", "greatest")
    if any(_differ(output, _observed(prepare(), extreme)[0]) for extreme in extremes):
        return True
    return any(_differ(output, _run(prepare(), seed)) for seed in range(1, 1 + _SEEDS))


def listed(draws: list[Draw]) -> str:
    """Return the first few of some draws as text."""
    text = ", ".join(map(str, draws[:3]))
    return text if len(draws) <= 3 else f"{text} and {len(draws) - 3} more"


def _observed(prepared: Pass, extreme: Extreme | None = None) -> tuple[Any, Draws, list[Draw]]:
    """Run a pass; return its output, its draws, and those of Python, NumPy and the operating system."""
    draws, foreign = Draws(module_names(prepared.twin.model), extreme), ForeignDraws()
    with draw_from(torch.Generator().manual_seed(0), prepared.tensors), draws, prepared.twin.running(), foreign:
        output = prepared.run()
    return output, draws, foreign.seen


def _run(prepared: Pass, seed: int = 0) -> Any:
    """Run a pass with numbers of torch from a seed."""
    with draw_from(torch.Generator().manual_seed(seed), prepared.tensors), prepared.twin.running():
        return prepared.run()


def _differ(a: Any, b: Any) -> bool:
    """Return whether two outputs differ by more than rounding."""
    leaves, others = ([leaf for leaf in tree_leaves(_answer(value)) if isinstance(leaf, Tensor)] for value in (a, b))
    return len(leaves) != len(others) or any(map(_tensors_differ, leaves, others))


def _answer(output: Any) -> Any:
    """Return the logits in an output, of every exit of a list; the output itself if it has none."""
    if isinstance(output, list):
        return output
    try:
        return output_tensor(output)
    except TypeError:
        return output


def _tensors_differ(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or not a.is_floating_point():
        return a.shape != b.shape or not torch.equal(a, b)
    scale = float(a.abs().nan_to_num(posinf=0).max()) if a.numel() else 0.0
    tolerance = torch.finfo(a.dtype).eps ** 0.75
    return not torch.allclose(a, b, rtol=tolerance, atol=tolerance * scale, equal_nan=True)
