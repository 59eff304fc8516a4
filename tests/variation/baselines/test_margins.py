import itertools
import math
from dataclasses import replace

import pytest
import torch

from suffice.counting import count_macs
from suffice.variation.baselines import margins
from suffice.variation.baselines.margins import Layer
from suffice.variation.baselines.slopes import ACTIVATIONS
from tests import tolerances

DOUBLE = torch.float64


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def masks(units, rate):
    """Return all factors (2^D, D) of D units, and the probability of each."""
    kept = torch.tensor(list(itertools.product([0.0, 1.0], repeat=units)), dtype=DOUBLE)
    probability = (kept * (1 - rate) + (1 - kept) * rate).prod(dim=1)
    return kept / (1 - rate), probability


def weighted_covariance(values, probability):
    """Return the exact covariance (k, k) of values (M, k) with given probabilities."""
    centered = values - probability @ values
    return centered.T @ (probability[:, None] * centered)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.8])
def test_dropout_of_the_last_layers_inputs_has_this_covariance_exactly(rate):
    weight, h = randn(4, 7), randn(3, 7, seed=1)
    values, directions = margins.top_margins(h @ weight.T, weight, 3)
    covariance = margins.margin_covariance(directions, [Layer(weight, h, rate)])
    factors, probability = masks(7, rate)
    for i in range(len(h)):
        order = (h[i] @ weight.T).argsort(descending=True)
        logits = (h[i] * factors) @ weight.T
        all_margins = logits[:, order[:1]] - logits[:, order[1:]]
        torch.testing.assert_close(values[i], (h[i] @ weight.T)[order[0]] - (h[i] @ weight.T)[order[1:]])
        torch.testing.assert_close(covariance[i], weighted_covariance(all_margins, probability))


def test_dropout_before_units_that_stay_on_has_this_covariance_exactly():
    weight, deeper, f = randn(4, 5), randn(5, 6, seed=1), randn(2, 6, seed=2)
    bias = torch.full((5,), 100.0, dtype=DOUBLE)
    h = (f @ deeper.T + bias).relu()
    _, directions = margins.top_margins(h @ weight.T, weight, 3)
    layers = [Layer(weight, h, 0.0), Layer(deeper, f, 0.3, torch.ones(2, 5, dtype=DOUBLE))]
    covariance = margins.margin_covariance(directions, layers)
    factors, probability = masks(6, 0.3)
    for i in range(len(f)):
        order = (h[i] @ weight.T).argsort(descending=True)
        logits = ((f[i] * factors) @ deeper.T + bias).relu() @ weight.T
        exact = weighted_covariance(logits[:, order[:1]] - logits[:, order[1:]], probability)
        torch.testing.assert_close(covariance[i], exact, rtol=1e-9, atol=1e-9)


def head(activation, classes):
    """Return a function of the factors of three layers to margins, and the layers, for one example."""
    weights = [randn(classes, 5), randn(5, 6, seed=1), randn(6, 4, seed=2)]
    f = randn(1, 4, seed=3)
    known = ACTIVATIONS[activation]
    z = [f @ weights[2].T]
    z.append(known.value(z[0]) @ weights[1].T)
    inputs = [known.value(z[1]), known.value(z[0]), f]
    slopes = [None, known.slope(z[1]), known.slope(z[0])]
    rates = (0.1, 0.5, 0.3)
    layers = [Layer(*parts) for parts in zip(weights, inputs, rates, slopes, strict=True)]

    def logits(*factors):
        h = f[0]
        for weight, g in zip(reversed(weights), reversed(factors), strict=True):
            h = weight @ (g * h)
            h = h if weight is weights[0] else known.value(h)
        return h

    return logits, layers


@pytest.mark.parametrize("classes", [3, 6, 9])
@pytest.mark.parametrize("activation", ["relu", "gelu", "tanh", "identity"])
def test_the_covariance_is_that_of_the_gradients_with_respect_to_the_factors(activation, classes):
    """This includes the margin over the rest of the classes, which is not linear in the logits."""
    logits, layers = head(activation, classes)
    ones = [torch.ones(layer.inputs.shape[1], dtype=DOUBLE) for layer in layers]
    order = logits(*ones).argsort(descending=True)
    k = min(5, classes - 1)

    def margins_of(*factors):
        z = logits(*factors)[order]
        apart = z[:1] - z[1:]
        return apart if len(apart) == k else torch.cat([apart[: k - 1], -(-apart[k - 1 :]).logsumexp(0, keepdim=True)])

    jacobians = torch.func.jacrev(margins_of, argnums=(0, 1, 2))(*ones)
    expected = sum(r / (1 - r) * j @ j.T for j, r in zip(jacobians, (0.1, 0.5, 0.3), strict=True))
    values, directions = margins.top_margins(logits(*ones)[None], layers[0].weight, k)
    torch.testing.assert_close(values[0], margins_of(*ones))
    torch.testing.assert_close(margins.margin_covariance(directions, layers)[0], expected)


def test_the_variance_of_outputs_is_the_diagonal_of_their_covariance():
    _, layers = head("gelu", 4)
    whole = margins.margin_covariance(layers[0].weight[None], layers)
    torch.testing.assert_close(margins.output_variance(layers), whole.diagonal(dim1=1, dim2=2))


@pytest.mark.parametrize("k", range(1, 6))
def test_the_points_have_the_first_two_moments_of_standard_normals(k):
    points = margins.normal_points(k)
    assert points.shape == (margins.LINE_POINTS if k == 1 else margins.POINTS, k)
    assert points.dtype == torch.float32
    assert torch.equal(points, margins.normal_points(k))
    rounding = tolerances.gamma(margins.POINTS, torch.float32)
    torch.testing.assert_close(points.mean(dim=0), torch.zeros(k), atol=rounding * float(points.abs().max()), rtol=0)
    covariance = points.T @ points / len(points)
    torch.testing.assert_close(covariance, torch.eye(k), atol=2 * k * rounding, rtol=0)


@pytest.mark.parametrize(("dtype", "scale"), [(DOUBLE, 1e-4), (torch.float32, 1e-9)])
def test_a_small_spread_is_that_of_the_first_order(dtype, scale):
    """√(gᵀSg) with g = p p_c, up to the scale, the shrinkage, and the rounding of a factor."""
    apart, root = randn(20, 4).abs(), randn(20, 4, 4, seed=1)
    covariance = scale**2 * root @ root.mT
    p = 1 / (1 + (-apart).exp().sum(dim=1, keepdim=True))
    g = p * p * (-apart).exp()
    expected = torch.einsum("nc,ncd,nd->n", g, covariance, g).sqrt()
    spread = margins.probability_spread(apart.to(dtype), covariance.to(dtype), margins.normal_points(4).to(dtype))
    error = scale + margins.SHRINKAGE + torch.finfo(dtype).eps / math.sqrt(margins.SHRINKAGE)
    torch.testing.assert_close(spread.double(), expected, rtol=10 * error, atol=0)


def test_without_a_deviation_there_is_no_spread():
    spread = margins.probability_spread(randn(20, 4).float(), torch.zeros(20, 4, 4), margins.normal_points(4))
    assert float(spread.max()) < torch.finfo(DOUBLE).eps


def test_a_wide_spread_is_that_of_many_normals_to_two_percent_of_its_variance_over_inputs():
    apart = 3 * torch.rand(200, 5, generator=torch.Generator().manual_seed(0), dtype=DOUBLE).cumsum(dim=1)
    root = 1.5 * randn(200, 5, 8) * torch.rand(200, 1, 1, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    covariance = root @ root.mT
    spread = margins.probability_spread(apart, covariance, margins.normal_points(5).double())
    many = margins.probability_spread(apart, covariance, randn(20_000, 5, seed=2))
    assert float((spread - many).square().mean() / many.var()) < 0.02
    assert float(spread.max()) <= 0.5  # the largest deviation of a number in [0, 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [0.0, 1e-12, 1.0, 1e6])
def test_a_singular_covariance_has_a_factor(dtype, scale):
    root = scale * randn(30, 5, 2).to(dtype)
    covariance = root @ root.mT
    factor = margins.cholesky(covariance)
    largest = covariance.diagonal(dim1=1, dim2=2).amax(dim=1)[:, None, None]
    assert bool(factor.isfinite().all())
    error = (factor @ factor.mT - covariance).abs()
    allowed = (margins.SHRINKAGE + tolerances.gamma(20, dtype)) * largest + 2 * torch.finfo(dtype).tiny
    assert bool((error <= allowed).all())


def test_one_logit_has_its_own_deviation_and_that_of_its_probability():
    weight, h, z = randn(1, 9), randn(50, 9, seed=1), randn(50, 1, seed=2)
    layers = [Layer(weight, h, 0.2)]
    spreads = margins.head_spreads(z, layers, margins.normal_points(1).double(), "binary")
    exact = (h.square() @ weight[0].square() * 0.25).sqrt()
    torch.testing.assert_close(spreads[:, 0], exact)
    nodes = torch.linspace(-8, 8, 4001, dtype=DOUBLE)
    density = torch.exp(-nodes.square() / 2)
    probs = (z + exact[:, None] * nodes).sigmoid()
    mean = (probs @ density) / density.sum()
    integral = ((probs - mean[:, None]).square() @ density / density.sum()).sqrt()
    torch.testing.assert_close(spreads[:, 1], integral, rtol=0.02, atol=0)


def test_several_predictions_have_the_root_of_their_mean_variance_first():
    weight, h = randn(3, 9), randn(50, 9, seed=1)
    variance = h.square() @ weight.square().T * 0.25
    arguments = h @ weight.T, [Layer(weight, h, 0.2)], margins.normal_points(1).double()
    regression = margins.head_spreads(*arguments, "regression")
    torch.testing.assert_close(regression, torch.cat([variance.mean(1, keepdim=True), variance], dim=1).sqrt())
    labels = margins.head_spreads(*arguments, "multilabel")
    torch.testing.assert_close(labels[:, 1:], variance.sqrt())
    each = [
        margins.head_spreads((h @ w)[:, None], [Layer(w[None], h, 0.2)], arguments[2], "binary")[:, 1] for w in weight
    ]
    torch.testing.assert_close(labels[:, 0], torch.stack(each).square().mean(dim=0).sqrt())


def test_the_products_of_margins_are_all_counted():
    _, layers = head("relu", 9)
    points = margins.normal_points(5).double()
    logits = layers[0].inputs @ layers[0].weight.T
    with pytest.warns(UserWarning, match="multiply-adds of linalg_cholesky_ex are not counted"):  # of 5 × 5 matrices
        _, counted = count_macs(lambda: margins.head_spreads(logits, layers, points, "classification"))
    shapes = [tuple(layer.weight.shape) for layer in layers]
    assert counted == margins.macs(shapes, (None, None), (0.1, 0.5, 0.3), 5, len(points), covariances=True)
    assert margins.macs([(1, 16)], (), (0.5,), 1, 0, covariances=False) == 16


def test_the_products_with_factors_are_counted_in_place_of_those_with_the_weight():
    _, layers = head("relu", 9)
    low = [layers[0], *(factorized(layer, 2) for layer in layers[1:])]
    points, logits = margins.normal_points(5).double(), layers[0].inputs @ layers[0].weight.T
    with pytest.warns(UserWarning, match="multiply-adds of linalg_cholesky_ex are not counted"):  # of 5 × 5 matrices
        _, counted = count_macs(lambda: margins.head_spreads(logits, low, points, "classification"))
    shapes = [tuple(layer.weight.shape) for layer in layers]
    assert counted == margins.macs(shapes, (2, 2), (0.1, 0.5, 0.3), 5, len(points), covariances=True)


def factorized(layer, rank):
    factors = margins.factorize(layer.weight, layer.inputs, rank)
    return replace(layer, factors=tuple(factor.to(DOUBLE) for factor in factors))


def test_factors_of_full_rank_have_the_weight_as_their_product():
    weight = randn(5, 8)
    left, right = margins.factorize(weight, randn(20, 8, seed=1), 5)
    rounding = tolerances.gamma(2 + 5, torch.float32) * (left.abs() @ right.abs()).max()  # of both, and of the product
    torch.testing.assert_close((left @ right).double(), weight, atol=float(rounding), rtol=0)


def test_factors_take_the_place_of_the_weight():
    _, layers = head("gelu", 4)
    low = [layers[0], factorized(layers[1], 3), factorized(layers[2], 2)]
    products = [layers[0], *(replace(layer, weight=layer.factors[0] @ layer.factors[1]) for layer in low[1:])]
    products = [replace(layer, factors=None) for layer in products]
    torch.testing.assert_close(margins.output_variance(low), margins.output_variance(products))


def test_factors_of_a_low_rank_keep_what_the_inputs_use():
    rows, scale = 1000, torch.tensor([9.0, 5.0, 1e-6, 1e-6], dtype=DOUBLE)
    f = scale * (1 + torch.rand(rows, 4, generator=torch.Generator().manual_seed(0), dtype=DOUBLE))
    deep = Layer(randn(6, 4), f, 0.3, torch.ones(rows, 6, dtype=DOUBLE))
    last = Layer(randn(1, 6, seed=2), randn(rows, 6, seed=3), 0.0)
    low, exact = (margins.output_variance([last, layer]) for layer in (factorized(deep, 2), deep))
    torch.testing.assert_close(low, exact, rtol=2 / rows, atol=0)  # the row of means turns the directions by so much


def test_no_input_of_one_row_counts_for_nothing():
    weight = torch.tensor([[1.0, 0.0], [0.0, 100.0]], dtype=DOUBLE)
    left, right = margins.factorize(weight, torch.tensor([[1.0, 0.0]]), 1)  # the second input is off in this row
    assert left.dtype == right.dtype == torch.float32
    torch.testing.assert_close((left @ right).abs().double(), torch.tensor([[0.0, 0.0], [0.0, 100.0]], dtype=DOUBLE))


@pytest.mark.parametrize("margin", [20.0, -20.0])
def test_a_probability_near_zero_or_one_keeps_the_digits_of_its_spread(margin):
    """1/(1 + exp(−m)) is 1 to float32 for m = 20."""
    assert torch.tensor(20.0).sigmoid() == 1
    arguments = torch.tensor([[margin]]), torch.tensor([[[0.25]]]), margins.normal_points(1)
    exact = margins.probability_spread(*(argument.double() for argument in arguments))
    # exp amplifies the rounding of its argument, of up to 21; so does the difference from the mean, which is of a size.
    rounding = 4 * 21 * tolerances.gamma(8, torch.float32)
    torch.testing.assert_close(margins.probability_spread(*arguments).double(), exact, rtol=rounding, atol=0)
