import math

import numpy as np
import pytest

from suffice_runtime.monitor import bets

# Rounding: a product of n factors of relative error 4u each; compared through logarithms.
EPS = np.finfo(np.float64).eps


def beta_mixture(x, m):
    """Return the log-wealth of all bets on a mean q in (0, 1), in proportion to dq, by Gauss-Legendre quadrature.

    It is exact here: the wealth is a polynomial in q of the degree of the number of observations.
    """
    nodes, weights = np.polynomial.legendre.leggauss(len(x) // 2 + 1)
    parts = []
    for low, high in [(0, m), (m, 1)]:
        q = low + (high - low) * (nodes + 1) / 2
        if low == m:
            wealth = bets.factors(x, m, (q - m) / (m * (1 - q)))
        else:
            wealth = bets.factors(1 - x, 1 - m, (m - q) / ((1 - m) * q))
        parts.append((np.log(wealth).sum(axis=0), weights * (high - low) / 2))
    logs, weights = (np.concatenate(pair) for pair in zip(*parts, strict=True))
    return bets.log_mixture(logs, weights)


@pytest.mark.parametrize("m", [0.01, 0.2, 0.7])
@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_a_uniform_mixture_of_bets_is_the_beta_binomial_bayes_factor(m, share):
    x = (np.random.default_rng(0).random(60) < share).astype(float)
    s, n = x.sum(), len(x)
    marginal = math.lgamma(1 + s) + math.lgamma(1 + n - s) - math.lgamma(2 + n)
    expected = marginal - s * math.log(m) - (n - s) * math.log1p(-m)
    assert beta_mixture(x, m) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("m", [0.05, 0.3])
def test_a_uniform_mixture_of_bets_is_the_test_martingale_of_ville(m):
    ville = pytest.importorskip("ville", reason="a published package of e-processes")
    x = (np.random.default_rng(1).random(100) < 0.1).astype(float)
    test = ville.BernoulliTest(m).fit(x)
    ours = [float(beta_mixture(x[:n], m)) for n in range(1, len(x) + 1)]
    np.testing.assert_allclose(ours, test.log_e_values_, atol=1e-9)


@pytest.mark.parametrize("m", [0.001, 0.01, 0.5, 0.99])
def test_a_bet_is_the_likelihood_ratio_of_another_mean(m):
    q = m * (1 + bets.SIZES) / (1 + m * bets.SIZES)  # the inverse of g = (q − m)/(m(1 − q))
    np.testing.assert_allclose(bets.factors(1.0, m), q / m, rtol=8 * EPS)
    np.testing.assert_allclose(bets.factors(0.0, m), (1 - q) / (1 - m), rtol=1e-9)


def test_bets_have_an_expected_factor_of_one_and_the_capital_is_divided_among_them():
    for m in (0.01, 0.5):
        fair = m * bets.factors(1.0, m) + (1 - m) * bets.factors(0.0, m)
        np.testing.assert_allclose(fair, 1, rtol=8 * EPS)
    assert bets.WEIGHTS.sum() == pytest.approx(1, abs=len(bets.WEIGHTS) * EPS)
    assert (bets.WEIGHTS > 0).all()


def test_a_size_half_a_step_beside_the_best_loses_at_most_a_twentieth_of_the_growth():
    m = 0.01
    for middle in np.exp(np.arange(-2.2, 3, 0.4)):  # best sizes midway between two of the grid
        q = m * (1 + middle) / (1 + m * middle)
        growth = q * np.log(bets.factors(1.0, m)) + (1 - q) * np.log(bets.factors(0.0, m))
        best = q * math.log(q / m) + (1 - q) * math.log((1 - q) / (1 - m))
        assert growth.max() >= 0.95 * best
