"""Target of an estimator: a spread with a power that few passes estimate without bias.

The variance of T passes with divisor T − 1 is unbiased, and so is the disagreement, a U-statistic. An estimator
learns from these powers, s² or the disagreement itself. The mutual information of few passes has no such power.
"""

from dataclasses import dataclass

from torch import Tensor

from suffice.variation.learning import agreement


@dataclass(frozen=True)
class Target:
    """Spread that an estimator learns.

    Attributes:
        name: Name of the spread: "std", "std_mean", another deviation, or "disagreement".

    Raises:
        ValueError: For a spread that few passes estimate only with bias.
    """

    name: str

    def __post_init__(self) -> None:
        named = isinstance(self.name, str)
        if not named or (self.name not in ("std", "disagreement") and not self.name.startswith("std_")):
            raise ValueError(
                f"expected target to be 'std', another deviation or 'disagreement', got {self.name!r}; the mutual "
                "information of a few passes is biased, so it cannot be learned from them"
            )

    @property
    def is_deviation(self) -> bool:
        """Return whether the spread is a standard deviation."""
        return self.name != "disagreement"

    @property
    def power(self) -> float:
        """Power that few passes estimate without bias: 2 for deviations, 1 for the disagreement."""
        return 2.0 if self.is_deviation else 1.0

    def unbiased(self, spread: Tensor, passes: int) -> Tensor:
        """Return a spread (N,) over T = `passes` passes without its bias under nearly normal outputs."""
        return agreement.unbiased(spread, passes) if self.is_deviation else spread
