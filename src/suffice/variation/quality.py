"""Quality of an estimator: on held-out rows at fitting, and on later inputs by an audit."""

import math
import warnings
from dataclasses import dataclass
from typing import Any

from suffice.storage.parts import NOT_NEGATIVE, POSITIVE, Parts


@dataclass(frozen=True)
class Audit:
    """Comparison of an estimator with real passes on the same inputs.

    Attributes:
        rows: Number of inputs.
        passes: Number of real passes of each input, half of them in each of two independent measurements.
        r_squared: Noise-corrected R² of the spread, sensitive to bias; NaN if two measurements do not vary together.
        squared_correlation: Noise-corrected squared correlation, insensitive to bias.
        bias: Ratio of the root mean estimated variance to the root mean measured variance, minus 1.
        clipped: Mean fraction of clipped features.
        outside: Fraction of inputs flagged as outside.
    """

    rows: int
    passes: int
    r_squared: float
    squared_correlation: float
    bias: float
    clipped: float
    outside: float

    def __repr__(self) -> str:
        """Show the numbers to three digits."""
        numbers = ", ".join(f"{name}={shown(value, '.3g')}" for name, value in list(vars(self).items())[2:])
        return f"Audit(rows={self.rows}, passes={self.passes}, {numbers})"


@dataclass(frozen=True)
class Quality:
    """Quality of an estimator on held-out validation rows.

    Attributes:
        r_squared: Noise-corrected R² of the spread; NaN if two measurements do not vary together.
        log_error: Variance τ² of log(truth/estimate).
        subsets: With `layers="auto"`, a row for each subset that was tried: layers, strengths, macs, cost, r_squared.
    """

    r_squared: float
    log_error: float
    subsets: tuple[dict[str, Any], ...] = ()

    @classmethod
    def from_parts(cls, parts: Parts) -> "Quality":
        """Read the quality from the fields of an artifact."""
        log_error = parts.number("log_error", POSITIVE, also=(math.inf,))
        return cls(
            parts.number("r_squared", also=(math.nan,)), log_error, tuple(map(_read_subset, parts.each("subsets")))
        )


def shown(value: float, form: str = ".3f") -> str:
    """Return a measure as text; NaN stands for one that the rows do not determine."""
    return "not measurable" if math.isnan(value) else format(value, form)


def warn_if_poor(quality: Quality, rows: int) -> None:
    """Warn of an R² that is below zero or NaN, in the name of the caller of a decorated public function.

    Args:
        quality: Quality on held-out rows.
        rows: Number of these rows.
    """
    if math.isnan(quality.r_squared):
        warnings.warn(
            f"expected an estimator whose R² can be measured, got NaN: two measurements of the {rows} held-out spreads "
            "do not vary together; pass more validation rows, inputs whose spreads differ, or more passes",
            stacklevel=4,
        )
    elif quality.r_squared < 0:
        warnings.warn(
            f"expected estimates closer to the spreads than their mean is, got an R² of {quality.r_squared:.3g} on "
            f"{rows} held-out rows; pass more training rows, layers=None and more epochs, or more validation rows if "
            "these are few",
            stacklevel=4,
        )


def _read_subset(parts: Parts) -> dict[str, Any]:
    """Read one row of `Quality.subsets`."""
    return {
        "layers": list(parts.texts("layers")),
        "strengths": parts.count("strengths"),
        "macs": parts.count("macs"),
        "cost": parts.number("cost", NOT_NEGATIVE),
        "r_squared": parts.number("r_squared", also=(math.nan,)),
    }
