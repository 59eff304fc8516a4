"""Tolerances of numerical tests, derived from types, sizes and numbers of samples instead of observed differences.

Rounding. The error of a sum of n rounded products is at most γ_n = nu / (1 − nu) times the sum of their absolute
values, u half of the type's ε, in any order of summation (Higham 2002, section 3.1).

Sampling. A sample statistic is compared within `SIGMAS` standard deviations of its expected value. Seeds are fixed and
generators are the same on every processor, so that such a test passes everywhere or nowhere.

Any other tolerance is the stated accuracy of a method, named in the test or on its page: a mean field to two percent, a
budget to half a percent.
"""

import math

import torch

SIGMAS = 5.0
"""Number of standard deviations; one in two million normal draws is further from its mean."""


def gamma(terms: int, dtype: torch.dtype) -> float:
    """Return γ_n, relative to the sum of absolute values; relative to the sum itself if no term is negative."""
    rounded = terms * torch.finfo(dtype).eps / 2
    return rounded / (1 - rounded)


def mean(deviation: float, draws: int) -> float:
    """Return the tolerance of a mean of independent draws with a given standard deviation."""
    return SIGMAS * deviation / math.sqrt(draws)


def share(chance: float, draws: int) -> float:
    """Return the tolerance of the share of independent draws that succeed with a given probability."""
    return mean(math.sqrt(chance * (1 - chance)), draws)


def deviation(draws: int, kurtosis: float = 3.0) -> float:
    """Return the relative tolerance of a standard deviation.

    A normal distribution has kurtosis 3, which bounds that of sums of dropped units: with rate ρ the excess kurtosis of
    a unit is (1 − 6ρ(1 − ρ)) / (ρ(1 − ρ)), below 0 for ρ in (0.21, 0.79), and sums are closer to 0.
    """
    return SIGMAS * math.sqrt((kurtosis - 1) / (4 * draws))
