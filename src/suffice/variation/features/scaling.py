"""Scaling of features into the inputs of a small network: selection, standardization and clipping."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from suffice.storage.parts import INVERTIBLE, NOT_NEGATIVE, SHARE, Parts
from suffice.storage.serializable import Serializable

_ACTIVE = 0.01
"""Fraction of the training rows on which a strength must differ from zero."""
_CLIP = 4.0


@dataclass(frozen=True)
class Scaled:
    """Scaled rows for a small network.

    Attributes:
        inputs: Inputs, (N, K).
        clipped: Fraction of the inputs of each row that was clipped, (N,).
        scores: Standard scores before clipping, (N, K), for `Distance`.
    """

    inputs: Tensor
    clipped: Tensor
    scores: Tensor


@dataclass(frozen=True)
class Scaling(Serializable):
    """Map from features (N, F) to the inputs (N, K) of a small network.

    Strengths that are hardly ever active and columns that are constant are left out. The rest is standardized and
    clipped to ±4. Strengths are many and each has little information, so they are weighted down until their variances
    sum to at most a quarter of those of the output's features.

    Attributes:
        columns: Indices of the selected columns, int64 (K,).
        mean: Mean of each column over the training rows, (K,).
        scale: Standard deviation of each column over the training rows, (K,); infinite for a selected column that
            does not vary.
        weight: Weight of each input, (K,).
    """

    columns: Tensor
    mean: Tensor
    scale: Tensor
    weight: Tensor

    @classmethod
    def fit(cls, features: Tensor, outputs: int) -> "Scaling":
        """Fit the scaling to training features (N, F), of which the first `outputs` columns describe the output.

        Raises:
            ValueError: If no column varies.
        """
        active = (features != 0).double().mean(dim=0) >= _ACTIVE
        active[:outputs] = True
        deviation = features.double().std(dim=0)
        varies = deviation > 1e-6 * features.double().abs().amax(dim=0)
        columns = (active & varies).nonzero()[:, 0]
        if not len(columns):
            raise ValueError(
                f"expected training rows that differ, got {len(features)} rows with the same output and strengths; "
                "pass the inputs that the model is used on"
            )
        return cls(
            columns,
            features.double().mean(dim=0)[columns].float(),
            deviation[columns].float(),
            cls.weights(columns, outputs),
        )

    @property
    def least_width(self) -> int:
        """Minimum number of feature columns: those up to the last selected one."""
        return int(self.columns[-1]) + 1

    @staticmethod
    def weights(columns: Tensor, outputs: int) -> Tensor:
        """Return the weights (K,) of columns, of which those below `outputs` describe the output."""
        output = columns < outputs
        weight = 0.5 * math.sqrt(int(output.sum()) / max(1, int((~output).sum())))
        return torch.full_like(output, min(1.0, weight), dtype=torch.float32).masked_fill_(output, 1.0)

    def apply(self, features: Tensor) -> "Scaled":
        """Scale features (N, F).

        Raises:
            ValueError: If there are fewer columns than at fitting.
        """
        if not torch.compiler.is_compiling() and features.shape[1] < self.least_width:  # a trace has no values
            raise ValueError(
                f"expected features of {self.least_width} columns or more, got {features.shape[1]}: the output or a "
                "layer that is read is narrower than it was; pass the model and inputs like those of fitting"
            )
        selected = features if len(self.columns) == features.shape[1] else features.index_select(1, self.columns)
        slope = self.scale.reciprocal()
        scores = torch.addcmul(-self.mean * slope, selected, slope)
        inputs = scores.clamp(-_CLIP, _CLIP)
        clipped = (inputs != scores).sum(dim=1).float() / scores.shape[1]
        return Scaled(inputs.mul_(self.weight), clipped, scores)

    @classmethod
    def from_parts(cls, parts: Parts) -> "Scaling":
        """Read the scaling from the tensors of an artifact, by the names of its fields."""
        columns = parts.tensor("columns", "I", NOT_NEGATIVE, dtype=torch.int64, rising=True)
        if not len(columns):
            parts.refuse_tensor("columns", "of one column or more", "none")
        parts.floating = torch.float32
        scale, weight = parts.tensor("scale", "I", INVERTIBLE, also=(math.inf,)), parts.tensor("weight", "I", SHARE)
        return cls(columns, parts.tensor("mean", "I"), scale, weight)

    def to(self, device: torch.device) -> "Scaling":
        """Return the scaling with its tensors on a device."""
        if device == self.columns.device:
            return self
        return replace(self, **{name: tensor.to(device) for name, tensor in self.tensors().items()})
