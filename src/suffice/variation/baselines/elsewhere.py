"""Dropout outside the head of a model, whose part of the spread the closed form of the head leaves out.

A dropout counts if the model's output depends on its factors: one pass for each has factors of a ramp there and of one
everywhere else. That of an earlier exit changes nothing. Attention, whose masks no factor reaches, always counts.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from suffice.network import State, batch_size, output_tensor
from suffice.variation.baselines.tracing import Step, Trace
from suffice.variation.teachers import sites
from suffice.variation.teachers.sites import Sites


def dropout_before(step: Step) -> tuple[list[int], float, Step | None]:
    """Return the numbers of the dropouts in a row right before a step, their joint rate, and the step before them."""
    numbers, rate, inner = list[int](), 0.0, step.before
    while inner is not None and inner.kind == "dropout":
        numbers.append(inner.number)
        rate, inner = rate + inner.rate - rate * inner.rate, inner.before
    return numbers, rate, inner


def elsewhere(model: nn.Module, x: State, chosen: Sites, traced: Trace, described: Iterable[int]) -> list[str]:
    """Return the names of the modules, each once, whose dropout changes the output and is not described.

    Args:
        model: Twin in evaluation mode.
        x: Batch of inputs that was traced.
        chosen: Sites of dropout.
        traced: Trace of a pass.
        described: Numbers of the dropouts on the inputs of the head's layers.
    """
    others = sorted(set(range(len(traced.dropout))).difference(described))
    expected = output_tensor(traced.output)
    names = [traced.dropout[n] for n in others if not torch.equal(_ramped(model, x, chosen, n), expected)]
    return list(dict.fromkeys([*names, *traced.attention]))


def listed(names: Sequence[str]) -> str:
    """Return up to five names as a message shows them."""
    shown = [repr(name) if name else "the model's own forward" for name in names[:5]]
    return ", ".join(shown) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _ramped(model: nn.Module, x: State, chosen: Sites, number: int) -> Tensor:
    """Return the output of a pass with factors from 1 to 2 at one dropout."""
    seen = 0

    def gate(_rate: float, units: Tensor) -> Tensor:
        nonlocal seen
        seen += 1
        if seen != number + 1:
            return torch.ones_like(units)
        return torch.linspace(1, 2, units.numel(), device=units.device).to(units.dtype).view(units.shape)

    return output_tensor(sites.run(model, x, chosen, batch_size(x), gate, lambda _: 0.0))
