"""What an estimator sees of one pass: features of the output, always, and activation strengths.

Which layers, which strengths, and whether the delta rule's estimate is among the features is a `Reader`. It says
of any batch the same columns: first those of the output, then those of each layer.
"""

from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor, nn

from suffice.network import State
from suffice.prediction import entropy
from suffice.storage.parts import Parts
from suffice.variation.baselines.delta_rule import delta_rule
from suffice.variation.features.strengths import Kind, read
from suffice.variation.teachers.sites import dropped
from suffice.variation.teachers.spreads import LikelihoodName, shaped


@dataclass(frozen=True)
class DeltaRule:
    """The delta rule as a feature, its `log`: what `delta_rule` needs. It costs a backward pass."""

    at: str | tuple[str, ...] | None = None
    rate: float | None = None


@dataclass(frozen=True)
class Reader:
    """Features of a batch in one pass.

    Attributes:
        layers: names of the layers whose strengths are read.
        kind: which strengths.
        likelihood: what the output is.
        delta: the delta rule as one more feature, if it is to be one.
    """

    layers: tuple[str, ...]
    kind: Kind
    likelihood: LikelihoodName
    delta: DeltaRule | None = None

    def read(self, model: nn.Module, x: State) -> tuple[Any, list[Tensor]]:
        """A model's own output, and features (N, F) float32: of the output, then of each layer.

        Args:
            model: a twin (`suffice.twin`) in evaluation mode; gradients are off.
            x: a batch of N examples.
        """
        output, strengths = read(model, x, self.layers, self.kind)
        found = output_features(shaped(output, self.likelihood), self.likelihood)
        if self.delta is not None:
            at = self.delta.at if self.delta.at is None or isinstance(self.delta.at, str) else list(self.delta.at)
            spread = delta_rule(model, x, at, self.delta.rate, self.likelihood)
            found = torch.cat([found, spread.clamp_min(1e-8).log().float()[:, None]], dim=1)
        return output, [found, *strengths.values()]

    @classmethod
    def from_parts(cls, parts: Parts, model: nn.Module) -> "Reader":
        """From the fields of one, for a model that has the layers."""
        layers = parts.texts("layers")
        if list(layers) != [name for name, _ in model.named_modules(remove_duplicate=False) if name and name in layers]:
            parts.refuse("layers", "names of modules of the model, in its order", layers)
        kind, likelihood = parts.choice("kind", get_args(Kind)), parts.choice("likelihood", get_args(LikelihoodName))
        delta = None if parts.none("delta") else DeltaRule(*dropped(parts.inner("delta"), model))
        return cls(layers, kind, likelihood, delta)


def output_features(outputs: Tensor, likelihood: LikelihoodName) -> Tensor:
    """What the output (N, C) alone tells, float32.

    Of class logits C + min(C, 5) + 3 numbers: centred logits, in the order of the classes; the largest
    log-probabilities, sorted; the log-odds of the top class; the entropy in nats and its logarithm. Of each binary
    logit itself, its size and its probability. Of predictions themselves.
    """
    outputs = outputs.float()
    if likelihood == "regression":
        return outputs
    if likelihood == "binary":
        return torch.cat([outputs, outputs.abs(), outputs.sigmoid()], dim=1)
    log_probs = outputs.log_softmax(dim=-1)
    ranked = log_probs.sort(dim=-1, descending=True).values
    log_odds = ranked[:, :1] - ranked[:, 1:].logsumexp(dim=-1, keepdim=True)
    spread = entropy(log_probs)[:, None]
    centered = outputs - outputs.mean(dim=-1, keepdim=True)
    return torch.cat([centered, ranked[:, :5], log_odds, spread, spread.clamp_min(1e-8).log()], dim=1)
