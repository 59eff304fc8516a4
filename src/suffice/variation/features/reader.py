"""Reader of one pass: the features that an estimator computes from a model's output and activation strengths.

A `Reader` holds which layers and which strengths are read, and whether the delta rule's estimate is a feature. It
returns the same columns for any batch: first those of the output, then those of each layer.

Among the layers, `MARGINS` ("<margins>") stands for the spreads under dropout of the model's last linear layers, in
closed form (`suffice.variation.baselines.margins`). It describes the output, as the features of the output do.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any, get_args

import torch
from torch import Tensor, nn

from suffice.attach.tokens.masks import TokenMask
from suffice.network import State
from suffice.prediction import entropy
from suffice.storage.parts import Parts, prefixed
from suffice.variation.baselines.delta_rule import delta_rule
from suffice.variation.baselines.head_layers import Head
from suffice.variation.features.strengths import Kind, are_layers, read
from suffice.variation.teachers.sites import read_names_and_rate
from suffice.variation.teachers.spreads import LikelihoodName, output_matrix

MARGINS = "<margins>"
"""Name, among names of layers, of the spreads under dropout of the last linear layers."""


@dataclass(frozen=True)
class DeltaRule:
    """Arguments of `delta_rule`, whose logarithm is a feature at the cost of a backward pass.

    Attributes:
        at: Names or patterns of the modules that drop; None for the model's own dropout.
        rate: Probability of dropping a unit; None for the rate of each dropout module.
    """

    at: str | Sequence[str] | None = None
    rate: float | None = None


@dataclass(frozen=True)
class Reader:
    """Choice of the features that are computed in one pass.

    Attributes:
        layers: Names of the layers whose strengths are read, modules and calls (`layer_names`), after `MARGINS` if
            that is read.
        kind: Kind of strengths.
        likelihood: Meaning of the model's output.
        delta: Delta rule as one more feature; None to leave it out.
        mask: Mask of the tokens that count in layers of tokens (N, T, D); None if all do.
        head: Last linear layers, whose dropout the margins are computed for; None if they are not read.
    """

    layers: tuple[str, ...]
    kind: Kind
    likelihood: LikelihoodName
    delta: DeltaRule | None = None
    mask: TokenMask | None = None
    head: Head | None = None

    @property
    def leading(self) -> int:
        """Number of groups of features that describe the output: its own, and the margins if they are read."""
        return 1 if self.head is None else 2

    def select(self, layers: Sequence[int]) -> "Reader":
        """Return the reader of the layers at the given positions alone."""
        names = tuple(self.layers[i] for i in layers)
        return replace(self, layers=names, head=self.head if MARGINS in names else None)

    def low_rank(self, model: nn.Module, x: State) -> "Reader":
        """Return the reader with the margins of `Head.low_rank`, which cost less, for weights that stay as they are."""
        return self if self.head is None else replace(self, head=self.head.low_rank(model, x, self.likelihood))

    def costs(self, model: nn.Module) -> list[int]:
        """Return the multiply-adds per example of reading each layer; strengths cost none."""
        margins = 0 if self.head is None else self.head.macs(model, self.likelihood)
        return [margins if name == MARGINS else 0 for name in self.layers]

    def to(self, device: torch.device) -> "Reader":
        """Return the reader with its tensors on a device."""
        return self if self.head is None else replace(self, head=self.head.to(device))

    def read(self, model: nn.Module, x: State) -> tuple[Any, list[Tensor]]:
        """Run a model once and compute its features.

        Args:
            model: Twin (`suffice.twin`) in evaluation mode, with gradients off.
            x: Batch of N examples.

        Returns:
            The model's own output, and features (N, F) float32: those of the output, then those of each layer.
        """
        names = [name for name in self.layers if name != MARGINS]
        with nullcontext() if self.head is None else self.head.recording(model) as recorded:
            output, strengths = read(model, x, names, self.kind, self.mask)
        outputs = output_matrix(output, self.likelihood)
        features = output_features(outputs, self.likelihood)
        if self.delta is not None:
            spread = delta_rule(model, x, self.delta.at, self.delta.rate, self.likelihood)
            features = torch.cat([features, spread.clamp_min(1e-8).log().float()[:, None]], dim=1)
        groups = [features]
        if self.head is not None and recorded is not None:
            groups.append(self.head.features(outputs, recorded, self.likelihood))
        return output, [*groups, *strengths.values()]

    def parts(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return the configuration and the tensors of an artifact, the latter with the prefix "head."."""
        configuration = asdict(replace(self, head=None))
        del configuration["head"]
        if self.head is None:
            return configuration, {}
        head, tensors = self.head.parts()
        return {**configuration, "head": head}, prefixed("head.", tensors)

    @classmethod
    def from_parts(cls, parts: Parts, model: nn.Module) -> "Reader":
        """Read the fields of a reader from an artifact, for a model that has its layers."""
        layers = parts.texts("layers")
        if not are_layers(model, layers[1:] if layers[:1] == (MARGINS,) else layers):
            parts.refuse("layers", "names of modules of the model, or of calls in their forward, in its order", layers)
        if ("head" in parts) != (MARGINS in layers):
            parts.refuse("layers", f"with {MARGINS!r} first if there is a head, and without it if not", layers)
        kind, likelihood = parts.choice("kind", get_args(Kind)), parts.choice("likelihood", get_args(LikelihoodName))
        delta = None if parts.none("delta") else DeltaRule(*read_names_and_rate(parts.inner("delta"), model))
        mask = None if "mask" not in parts or parts.none("mask") else TokenMask.from_parts(parts.inner("mask"))
        head = Head.from_parts(parts.inner("head", "head."), model, likelihood) if "head" in parts else None
        return cls(layers, kind, likelihood, delta, mask, head)


def output_features(outputs: Tensor, likelihood: LikelihoodName) -> Tensor:
    """Return the features (N, F) float32 of outputs (N, C).

    Class logits have C + min(C, 5) + 3 features: centered logits in the order of the classes, the largest
    log-probabilities, sorted, the log-odds of the top class, and the entropy in nats with its logarithm. The logit of a
    binary question or of a label has three: the logit, its absolute value and its probability. A predicted number has
    one: itself.
    """
    outputs = outputs.float()
    if likelihood == "regression":
        return outputs
    if likelihood in ("binary", "multilabel"):
        return torch.cat([outputs, outputs.abs(), outputs.sigmoid()], dim=1)
    log_probs = outputs.log_softmax(dim=-1)
    ranked = log_probs.sort(dim=-1, descending=True).values
    log_odds = ranked[:, :1] - ranked[:, 1:].logsumexp(dim=-1, keepdim=True)
    nats = entropy(log_probs)[:, None]
    centered = outputs - outputs.mean(dim=-1, keepdim=True)
    return torch.cat([centered, ranked[:, :5], log_odds, nats, nats.clamp_min(1e-8).log()], dim=1)
