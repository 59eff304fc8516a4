"""Passes that run on behind the classifier, which compare what a model returns with the output of its classifier.

A model may change its logits only for some inputs (`suffice.attach.behind`), so a few examples do not show that it
never does. Within `compared`, passes that would end at the classifier run to their end, which costs what lies behind
it. Passes of a model that selects positions run once more, as their features are selected in a pass of their own.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from suffice.attach.interception import Handler, pass_through
from suffice.network import output_tensor


@dataclass
class Batch:
    """Batch whose outputs are compared.

    Attributes:
        start: Position of its first example in the whole data.
        run: Whole pass of the model from the inputs of the batch, given a handler for the classifier, if a later part
            of the pass may need it.
    """

    start: int
    run: Callable[[Handler], Any] | None = None


_BATCH: ContextVar[Batch | None] = ContextVar("batch", default=None)


@contextmanager
def compared(batch: Batch) -> Iterator[None]:
    """Compare the output of models with that of their classifiers in all passes of this thread."""
    token = _BATCH.set(batch)
    try:
        yield
    finally:
        _BATCH.reset(token)


def current_batch() -> Batch | None:
    """Return the batch that is compared, or None."""
    return None if torch.compiler.is_compiling() else _BATCH.get()


class WholePass:
    """Pass of a model through its classifier to its end.

    Args:
        name: Name of the classifier in the model.

    Attributes:
        phi: Input φ of the classifier, once it has run.
        logits: Copy of the classifier's output, once it has run.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.phi: Tensor | None = None
        self.logits: Tensor | None = None

    @classmethod
    def wanted(cls, name: str) -> "WholePass | None":
        """Return a new pass within `compared`, else None."""
        return None if current_batch() is None else cls(name)

    def handle(self, name: str, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the classifier; a handler for `suffice.attach.interception`."""
        self.phi = pass_through(name, forward, args, kwargs)
        output = forward(*args, **kwargs)
        self.logits = output.clone()
        return output

    def features(self, output: Any) -> Tensor:
        """Return φ, if the output of the model is that of its classifier.

        Raises:
            RuntimeError: If the classifier did not run.
            ValueError: If an example has another output.
        """
        if self.phi is None or self.logits is None:
            raise RuntimeError(f"expected a pass to reach the classifier {self.name!r}, got one that did not")
        check_same(self.name, self.logits, output_tensor(output))
        return self.phi

    def check_selected(self, phi: Tensor, layer: nn.Linear, output: Any) -> None:
        """Compare the output with W φ + b for selected features (N, D), up to the rounding of sums of D products.

        Raises:
            ValueError: If an example has another output.
        """
        logits = functional.linear(phi, layer.weight, layer.bias)
        size = functional.linear(phi.abs(), layer.weight.abs(), None if layer.bias is None else layer.bias.abs())
        bound = 2 * (layer.in_features + 1) * torch.finfo(logits.dtype).eps * size  # each of two sums of D + 1 terms
        check_same(self.name, logits, output_tensor(output), bound)


def check_same(name: str, logits: Tensor, output: Tensor, bound: Tensor | float = 0.0) -> None:
    """Raise a ValueError at the first example whose output differs from its logits (N, C) by more than a bound.

    An output of another shape, but as many numbers, is compared in order; a NaN equals a NaN.
    """
    if output.numel() != logits.numel():
        found, row = f"an output of shape {tuple(output.shape)} for logits of shape {tuple(logits.shape)}", 0
    else:
        output = output.reshape(logits.shape)
        same = (output == logits) | ((output - logits).abs() <= bound) | (output.isnan() & logits.isnan())
        if bool(same.all()):
            return
        row = int((~same).flatten(start_dim=1).any(dim=1).nonzero()[0])
        found = f"another, by up to {float((output[row] - logits[row]).abs().max()):.3g}"
    batch = current_batch()
    raise ValueError(
        f"expected the output of the classifier {name!r} as the model's, got {found} at position "
        f"{(batch.start if batch else 0) + row}: the model changes its logits behind the classifier for some inputs; "
        "let it return the logits of its nn.Linear, and apply the rest to the predictions"
    )
