"""How far apart may be what should be equal: derived from types, sizes and samples, never observed.

Rounding. A sum of n rounded products is off by at most γ_n = nu / (1 − nu) of the sum of their sizes, u half of the
type's ε, in whatever order a processor adds them up (Higham 2002, section 3.1).

Sampling. What is drawn is compared within `SIGMAS` standard deviations of what is estimated from it. Seeds are fixed
and generators the same on every processor, so that such a test passes everywhere or nowhere; a tolerance there says how
far off a right implementation may be.

Where a tolerance is neither, it is the accuracy that a method is stated to have, and the test's name or the page says
so: a mean field of two percent, a budget met to half a percent.
"""

import math

import torch

SIGMAS = 5.0
"""One in two million draws is further off."""


def gamma(terms: int, dtype: torch.dtype) -> float:
    """γ_n, relative to the sum of the sizes of the terms; relative to the sum itself where no term is negative."""
    rounded = terms * torch.finfo(dtype).eps / 2
    return rounded / (1 - rounded)


def mean(deviation: float, draws: int) -> float:
    """Of the mean of independent draws."""
    return SIGMAS * deviation / math.sqrt(draws)


def share(chance: float, draws: int) -> float:
    """Of the share of independent draws that have the chance."""
    return mean(math.sqrt(chance * (1 - chance)), draws)


def deviation(draws: int, kurtosis: float = 3.0) -> float:
    """Of a standard deviation, relative to it; 3 is the kurtosis of a normal, and more than sums of dropped units have.

    With a rate ρ a unit's own excess is (1 − 6ρ(1 − ρ)) / (ρ(1 − ρ)), below 0 for ρ in (0.21, 0.79), and sums only
    come nearer to 0.
    """
    return SIGMAS * math.sqrt((kurtosis - 1) / (4 * draws))
