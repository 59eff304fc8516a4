"""Inputs of a bundle: two batches by which a network is traced, the mask of their tokens, and costs by length."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from suffice.attach.tokens.masks import TokenMask, mask_in
from suffice.budget.prices import price
from suffice.budget.scores import AnyScore
from suffice.calibration.calibrated import Calibrated
from suffice.deploy.graphs.graph import Probe
from suffice.deploy.graphs.values import EXAMPLES, TOKENS, input_names
from suffice.network import State, batch_size, call, select
from suffice.utils.nest import dotted_leaves, named_leaves, tree_leaves, tree_map_only

_ROWS = (3, 2)
"""Numbers of examples of both batches."""

_LEAST_TOKENS = 4
"""Least number of tokens of an example: the costs are counted at as many lengths, a quadratic and one to verify it."""


@dataclass(frozen=True)
class Inputs:
    """Example of the inputs of a network.

    Attributes:
        x: Batch of examples.
        names: Names of its tensors, in order.
        mask: Mask of the tokens that count, or None.
        tokens: Number of tokens T; None if the inputs are no texts.
    """

    x: State
    names: Sequence[str]
    mask: TokenMask | None
    tokens: int | None

    @classmethod
    def of(cls, network: nn.Module, x: State, mask: TokenMask | None = None) -> "Inputs":
        """Return the inputs of a network with batch x, as `suffice.inputs.prepare` returns it, and a mask if known.

        Raises:
            ValueError: If two tensors have the same name, or there are too few tokens.
        """
        mask = mask_in(network, x) if mask is None else mask
        tokens = None if mask is None else _number_of_tokens(mask, x)
        if tokens is not None and tokens < _LEAST_TOKENS:
            raise ValueError(
                f"expected an example of at least {_LEAST_TOKENS} tokens, got {tokens}; pass a longer text"
            )
        return cls(x, input_names(x), mask, tokens)

    def probe(self, network: nn.Module) -> Probe:
        """Return two batches, which differ in their numbers of examples and of tokens.

        Raises:
            ValueError: If the network does not take texts of another length.
        """
        first, second = (select(self.x, torch.arange(rows) % batch_size(self.x)) for rows in _ROWS)
        sizes = {EXAMPLES: _ROWS}
        if self.tokens is not None:
            half = self.tokens // 2  # so that also pooled lengths differ
            second = self._cut(second, half)
            sizes[TOKENS] = (self.tokens, half)
            try:
                with torch.no_grad():
                    call(network, second)
            except Exception as error:  # a network of the user may raise anything
                raise ValueError(
                    f"expected a network of texts of any length, got {type(error).__name__} for {half} in "
                    f"place of {self.tokens} tokens: {error}; pass an example with another number of tokens, which no "
                    "other dimension of its inputs has"
                ) from error
        return Probe.of_inputs(self.names, first, second, sizes)

    def padding(self) -> dict[str, str] | None:
        """Return the entry of a manifest for the mask of the tokens, or None if it is not one input of 0 and 1."""
        source = None if self.mask is None else self.mask.source(self.x)
        if self.mask is None or self.mask.kind != "true" or source is None or source.ndim != 2:
            return None
        return {"mask": next(name or "input" for name, leaf in dotted_leaves(self.x) if leaf is source)}

    def check_coin(self) -> None:
        """Raise a ValueError if the coin of an example cannot be computed from arrays by name."""
        if self.mask is not None and self.padding() is None:
            raise ValueError(
                "expected a mask of tokens (N, T) that is not 0 where a token counts, for a mixed policy or randomized "
                f"sets, whose coin leaves out padding, got {self.mask}; allocate with a score that does not tie, or "
                "conformalize without randomized=True"
            )
        places = [place for place, leaf in named_leaves(self.x) if isinstance(leaf, Tensor)]
        by_name = [place for _, place in sorted(zip(self.names, places, strict=True))]
        if by_name != sorted(places):
            raise ValueError(
                f"expected inputs in the order of their names, for a mixed policy or randomized sets, got "
                f"{sorted(self.names)}, which are in another order in the nest; rename the keys to letters and digits"
            )

    def costs(self, calibrated: Calibrated, score: str | AnyScore) -> dict[str, Any]:
        """Return the entry of a manifest for the cumulative multiply-adds, those of the score included.

        With attention they are a quadratic polynomial in the number of tokens, so that three lengths determine them. It
        is verified at a fourth.
        """
        macs = list(price(calibrated, self.x, score))
        if self.tokens is None:
            return {"macs": macs, "length": None, "by_length": None}
        step = self.tokens // _LEAST_TOKENS
        lengths = [self.tokens - i * step for i in range(_LEAST_TOKENS)]
        table = [macs, *(list(price(calibrated, self._cut(self.x, length), score)) for length in lengths[1:])]
        *known, check = lengths
        columns = zip(*table, strict=True)
        is_quadratic = all(_quadratic(known, column[:-1], check) == column[-1] for column in columns)
        by_length = {"T": known, "macs": table[:-1]} if is_quadratic else None
        return {"macs": macs, "length": self.tokens, "by_length": by_length}

    def _cut(self, x: State, tokens: int) -> State:
        """Return inputs with only their first tokens."""

        def cut(leaf: Tensor) -> Tensor:
            for axis in range(1, leaf.ndim):
                if leaf.shape[axis] == self.tokens:
                    leaf = leaf.narrow(axis, 0, tokens)
            return leaf

        return tree_map_only(Tensor, cut, x)


def _number_of_tokens(mask: TokenMask, x: State) -> int:
    source = mask.source(x)
    if source is not None and source.ndim > 1 and mask.kind not in ("length", "fraction"):
        return source.shape[-1] if mask.kind != "other" else source.shape[1]
    tensors = (leaf for leaf in tree_leaves(x) if isinstance(leaf, Tensor) and leaf is not source)
    return next((tensor.shape[1] for tensor in tensors if tensor.ndim > 1), 0)


def _quadratic(points: Sequence[int], values: Sequence[int], at: int) -> Fraction:
    """Return the value at a point of the polynomial through three points, exactly."""
    total = Fraction(0)
    for i, (point, value) in enumerate(zip(points, values, strict=True)):
        term = Fraction(value)
        for other in (*points[:i], *points[i + 1 :]):
            term *= Fraction(at - other, point - other)
        total += term
    return total
