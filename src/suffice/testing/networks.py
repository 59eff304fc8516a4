"""Rules of a network with exits."""

import torch
from torch import Tensor, nn

from suffice.attach import contract
from suffice.network import ExitNetwork, State, placement, select
from suffice.testing.rules import (
    ModelRecord,
    check_batch,
    default_generator_unused,
    equal_nests,
    inputs_unchanged,
    obeying,
    orders,
    rows_of,
    violated,
)
from suffice.twin import copy_parameters, inference


def check_exit_network(network: nn.Module, x: State) -> None:
    """Check that a network with exits follows the rules by which examples leave the batch.

    In evaluation mode, on a copy of the network:

    - "is an ExitNetwork";
    - "processes examples independently": every stage and the features of every exit keep the examples first, leave
      their input state unchanged, and give an example the same output, up to rounding, after others have left;
    - "returns logits": K tensors (N, C) in the floating type of its parameters, all finite;
    - "is deterministic": two passes return the same bytes;
    - "answers do not depend on companions": the logits of an example are the same, up to rounding, in another order, in
      another batch, and alone;
    - "advances to the same logits": the stages one by one, as `advance` runs them, return the same bytes as a pass;
    - "leaves its inputs unchanged", "leaves the model as it was" (weights, buffers, modes, hooks and gradients), and
      "leaves torch's default generator alone".

    Args:
        network: Network to check; it is only read.
        x: Batch of N ≥ 3 different examples: a tensor or a nest of tensors, on the network's device.

    Raises:
        AssertionError: If a rule is violated; the message names it.
        ValueError: For fewer than 3 examples.

    Example:
        >>> import torch
        >>> import suffice
        >>> network = suffice.models.convnet(num_classes=3, widths=(4, 8))
        >>> suffice.testing.check_exit_network(network, torch.rand(5, 1, 8, 8))
        >>> hook = network.stages[0].register_forward_hook(lambda module, args, out: out - out.mean(dim=0))
        >>> suffice.testing.check_exit_network(network, torch.rand(5, 1, 8, 8))
        Traceback (most recent call last):
        AssertionError: rule 'processes examples independently': ValueError: expected stage 0 to process each ...
    """
    if not isinstance(network, ExitNetwork):
        violated(
            "is an ExitNetwork", "a suffice.ExitNetwork", f"{type(network).__name__}; suffice.attach_exits makes one"
        )
    size = check_batch(x, least=3)
    with inference(network) as twin:
        copy_parameters(twin, [twin])
        record = ModelRecord.of(twin)
        with default_generator_unused("a pass"), inputs_unchanged("the batch", x):
            with obeying("processes examples independently"):
                contract.check(twin, x)
            logits = _logits(twin, x, size)
            if not equal_nests(logits, _logits(twin, x, size)):
                violated("is deterministic", "the same logits in a second pass", "others; look for dropout or noise")
            for how, rows in orders(size).items():
                _check_companions(twin, x, logits, rows, how)
            _check_advance(twin, x, logits)
        record.check(twin)


def _logits(network: ExitNetwork, x: State, size: int) -> list[Tensor]:
    """Return the logits of a pass, and raise an AssertionError unless they are of the expected form."""
    rule, dtype = "returns logits", placement(network)[1]
    with obeying(rule):
        logits = network(x)
    if not isinstance(logits, (list, tuple)) or len(logits) != len(network.exits):
        violated(rule, f"a list of {len(network.exits)} tensors, one for each exit", type(logits).__name__)
    for k, values in enumerate(logits):
        if not isinstance(values, Tensor) or values.shape != (size, network.num_classes):
            got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            violated(rule, f"a tensor of shape ({size}, {network.num_classes}) at exit {k}", got)
        if values.dtype != dtype:
            violated(rule, f"{dtype} at exit {k}, the type of the parameters", values.dtype)
        if not bool(values.isfinite().all()):
            violated(rule, f"finite logits at exit {k}", "NaN or infinity")
    return list(logits)


def _check_companions(network: ExitNetwork, x: State, logits: list[Tensor], rows: Tensor, how: str) -> None:
    """Raise an AssertionError if some examples have other logits in another batch."""
    rule = "answers do not depend on companions"
    with obeying(rule):
        others = network(select(x, rows))
    for k, (expected, got) in enumerate(zip(logits, others, strict=True)):
        if not contract.same_up_to_rounding(rows_of(expected, rows), got):
            violated(rule, f"the same logits at exit {k} for the examples {how}", "others")


def _check_advance(network: ExitNetwork, x: State, logits: list[Tensor]) -> None:
    """Raise an AssertionError if the stages one by one return other logits than a pass."""
    state = x
    for k, expected in enumerate(logits):
        with obeying("advances to the same logits"):
            state, phi = network.advance(k, state)
            got = network.exit(k).classifier(phi)
        if not torch.equal(got, expected):
            violated("advances to the same logits", f"the logits of a pass at exit {k}", "others by advance()")
