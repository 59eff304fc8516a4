"""Estimates of the variation of a model's output, from one pass. The counterpart of `suffice`'s `Estimate`."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from suffice_runtime.bundle.estimator import OUTPUT

Array = NDArray[Any]

EXPECTED = ((1, 0.05, 1e-6), (2, 0.0005, 1e-3), (10, 0.0, 1e-3))
"""Distances, the share of the inputs that may be beyond each, and the chance of more at which there is a warning."""


@dataclass(frozen=True, repr=False)
class Estimate:
    """Output of the model and estimated variation of a batch.

    Attributes:
        output: Output of the model: an array, a list of arrays (such as the logits of each exit), or a mapping from the
            places in the model's own output to arrays.
        variation: Estimated spread (N,), float32.
        clipped: Fraction of the features that were clipped, (N,).
        distance: Distance of the features from those of fitting, (N,), for ranking inputs. 1 % of inputs like those of
            fitting are above 1.
    """

    output: Array | list[Array] | dict[str, Array]
    variation: Array
    clipped: Array
    distance: Array

    @classmethod
    def of(cls, results: Mapping[str, Array]) -> "Estimate":
        """Return the estimate in the outputs of a graph."""
        places = {name.removeprefix(f"{OUTPUT}."): array for name, array in results.items() if _is_output(name)}
        output: Array | list[Array] | dict[str, Array] = places
        if OUTPUT in results:
            output = results[OUTPUT]
        elif list(places) == [str(i) for i in range(len(places))]:
            output = list(places.values())
        return cls(output, results["variation"], results["clipped"], results["distance"])

    @property
    def outside(self) -> NDArray[np.bool_]:
        """Flags of the examples whose distance is above 1 or not a number, (N,) bool."""
        return ~(self.distance <= 1)

    def __len__(self) -> int:
        """Number of examples N."""
        return len(self.variation)

    def __repr__(self) -> str:
        """Describe the estimate in one line."""
        mean = f", mean variation {self.variation.mean():.3g}" if len(self) else ""
        return f"Estimate({len(self):,} examples{mean}, {self.outside.sum()} outside)"


def warning(distances: Sequence[Array]) -> str | None:
    """Return the warning about inputs at some distances, or None if they are like those of fitting.

    There is one if more inputs are beyond the limit, or far beyond it, than among inputs like those of fitting.
    """
    distance = np.concatenate(distances)
    counts = [(int((~(distance <= limit)).sum()), share, chance) for limit, share, chance in EXPECTED]
    if all(not count or binomial_tail(count, len(distance), share) >= chance for count, share, chance in counts):
        return None
    return (
        f"{counts[0][0]} of {len(distance)} inputs are outside what the estimator was fitted on, so their variation is "
        "unreliable; estimate(x).outside marks them"
    )


def binomial_tail(least: int, trials: int, chance: float) -> float:
    """Return the probability of at least `least` successes, 1 or more, in independent trials with a chance below 1.

    The first term is computed by logarithms of the gamma function, later ones by P(i + 1)/P(i) = (n − i)/(i + 1) ·
    p/(1 − p).
    """
    if not chance:
        return 0.0
    ways = math.lgamma(trials + 1) - math.lgamma(least + 1) - math.lgamma(trials - least + 1)
    first = ways + least * math.log(chance) + (trials - least) * math.log1p(-chance)
    i = np.arange(least, trials, dtype=np.float64)
    ratios = (trials - i) / (i + 1) * (chance / (1 - chance))
    return float(np.exp(first + np.concatenate([[0.0], np.cumsum(np.log(ratios))])).sum())


def _is_output(name: str) -> bool:
    return name == OUTPUT or name.startswith(f"{OUTPUT}.")
