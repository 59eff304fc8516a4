"""Distance of an input from the rows of fitting: a Mahalanobis distance of its standard scores.

With z the scores (K,) of the features, and λ_j, v_j the eigenvalues and eigenvectors of their covariance on the N rows
of fitting, of which the R = min(32, N/10) leading ones are kept and the others are replaced by their mean λ_0,

    d² = (Σ_j (v_j·z)²/λ_j + (‖z‖² − Σ_j (v_j·z)²)/λ_0) / K

so that d is about 1 on those rows. Scores of features that vary together add up in ‖z‖, but not in d; and what no row
of fitting has, such as features that disagree, is far in d and not in ‖z‖. Tipping and Bishop 1999 (the covariance).

Distances are given in units of a limit, the 0.99 quantile of d: 1 % of inputs like those of fitting are beyond 1. With
fewer than some hundred rows they are more, since the eigenvectors fit those rows better than any other.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from suffice.metrics import quantile
from suffice.storage.parts import INVERTIBLE, Parts, Range
from suffice.storage.serializable import Serializable
from suffice.utils.modes import full_precision

_RANK = 32
_ROWS_PER_DIRECTION = 10
"""Number of rows for each eigenvector: one from fewer rows is close to those rows, and so far from any other."""
_ROWS = 1024
"""Number of rows that the eigenvectors of more features than that are computed from."""
_CLIP = 4.0
"""Largest score of a row of fitting, so that a few outlying rows do not determine the eigenvectors."""
_MOST = 10.0
"""Largest limit, in medians of the distance, so that one outlying row among few does not determine it."""
_LARGEST = 1e15
"""Largest score of any row, so that its square and the sums of these are finite."""
_FLOOR = 1e-2
"""Least eigenvalue, where the mean one is 1: what hardly varies does not decide alone."""
_LONGEST = 1.001 / math.sqrt(_FLOOR)
"""Largest element of a direction, up to rounding."""
FALSE_ALARMS = 0.01
"""Share of inputs like those of fitting that are outside."""


@dataclass(frozen=True)
class Distance(Serializable):
    """Distance of standard scores from those of fitting, and the limit beyond which an input is outside.

    Attributes:
        directions: Eigenvectors v_j, each times √(1/λ_0 − 1/λ_j), (K, R) float32.
        rest: λ_0, the mean of the other eigenvalues.
        limit: Distance d beyond which an input is outside.
    """

    directions: Tensor
    rest: float
    limit: float

    def __call__(self, scores: Tensor) -> Tensor:
        """Return the finite distances d/limit (N,) of standard scores (N, K), above 1 outside."""
        scores = scores.clamp(-_LARGEST, _LARGEST)
        with full_precision():
            squares = scores.square().sum(dim=1) / self.rest - (scores @ self.directions).square().sum(dim=1)
        distances = (squares.clamp_min(0) / scores.shape[1]).sqrt() / self.limit
        return distances.clamp_max(torch.finfo(distances.dtype).max)

    @property
    def macs(self) -> int:
        """Multiply-adds per example."""
        return self.directions.numel()

    def to(self, device: torch.device) -> "Distance":
        """Return the distance with its tensor on a device."""
        return self if device == self.directions.device else replace(self, directions=self.directions.to(device))

    @classmethod
    def fit(cls, scores: Tensor, *others: Tensor) -> "Distance":
        """Fit the distance to the scores (N, K) of rows of fitting.

        The limit is the quantile of the distances of these rows, or of other ones if that is greater.

        Args:
            scores: Standard scores, before clipping.
            others: Scores of other rows, such as those of early stopping.
        """
        values, vectors = _eigenvectors(scores.clamp(-_CLIP, _CLIP).double())
        width = scores.shape[1]
        rank = min(_RANK, width - 1, len(scores) // _ROWS_PER_DIRECTION)
        total = float(scores.clamp(-_CLIP, _CLIP).double().square().mean(dim=0).sum())
        leading = values[:rank].clamp_min(_FLOOR)
        rest = max((total - float(values[:rank].sum())) / (width - rank), _FLOOR)
        lengths = (1 / rest - 1 / leading).clamp_min(0).sqrt()
        fitted = cls((vectors[:, :rank] * lengths).float(), rest, 1.0)
        return fitted.limited(*map(fitted, (scores, *others)))

    @classmethod
    def isotropic(cls, scores: Tensor) -> "Distance":
        """Return the root mean square of scores (N, K) as the distance, with its limit from these rows."""
        fitted = cls(scores.new_zeros(scores.shape[1], 0), 1.0, 1.0)
        return fitted.limited(fitted(scores))

    def limited(self, *distances: Tensor) -> "Distance":
        """Return the distance with its limit from the distances (N,) of rows like those of fitting."""
        limits, medians = zip(*(quantile(rows, [1 - FALSE_ALARMS, 0.5]).tolist() for rows in distances), strict=True)
        greatest = self.limit * min(max(limits), _MOST * max(medians))
        return replace(self, limit=min(max(greatest, INVERTIBLE.least), INVERTIBLE.most))

    def parts(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return the configuration and the tensors of an artifact; directions are stored if there are any."""
        rank = self.directions.shape[1]
        configuration = {"limit": self.limit, "rest": self.rest, "rank": rank}
        return configuration, self.tensors() if rank else {}

    @classmethod
    def from_parts(cls, parts: Parts, width: int) -> "Distance":
        """Read the distance of K = `width` scores from the fields of an artifact, and its tensor, if it has one.

        Artifacts without a rank are those of the root mean square.
        """
        limit = parts.number("limit", INVERTIBLE)
        if "rank" not in parts:
            return cls(_no_directions(width), 1.0, limit)
        rest, rank = parts.number("rest", INVERTIBLE), parts.count("rank", most=min(_RANK, width - 1))
        if not rank:
            return cls(_no_directions(width), rest, limit)
        longest = Range(least=-_LONGEST, most=_LONGEST)
        return cls(parts.tensor("distance.directions", f"{width} {rank}", longest, dtype=torch.float32), rest, limit)


def _no_directions(width: int) -> Tensor:
    return torch.zeros(width, 0, dtype=torch.float32)


def _eigenvectors(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvalues (R,), falling, and eigenvectors (K, R) of the second moment of scores (N, K) float64."""
    if scores.shape[1] <= _ROWS:
        values, vectors = torch.linalg.eigh(scores.T @ scores / len(scores))
        return values.flip(0), vectors.flip(1)
    rows = scores[:: -(-len(scores) // _ROWS)]
    values, weights = torch.linalg.eigh(rows @ rows.T / len(rows))
    values, weights = values.flip(0)[:_RANK], weights.flip(1)[:, :_RANK]
    return values, normalize(rows.T @ weights, dim=0)
