import math
from dataclasses import fields

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from suffice.calibration import links
from suffice.calibration.posterior import kronecker, lowrank
from suffice.calibration.posterior.curvature import Curvature
from suffice.calibration.posterior.moments import standard_normals
from suffice.utils.nest import tree_leaves
from tests.calibration.posterior.conformance import (
    PosteriorConformance,
    centered,
    feature_moment,
    problem,
    softmax_hessian,
)
from tests.calibration.posterior.test_sketch import confusion

MANY, COLUMNS, WIDTH = 600, 64, 4


class TestAsManyColumnsAsClasses(PosteriorConformance):
    """The summed Hessian is exact in this case, so the precision is that of `kronecker`."""

    module = lowrank

    def posterior(self, statistics, delta, gamma):
        return lowrank.Posterior.fit(statistics, delta, gamma)

    def precision(self, phi, logits, delta, gamma):
        likelihood = torch.kron(softmax_hessian(logits), feature_moment(phi))
        return likelihood + delta * torch.kron(torch.diag(gamma), torch.eye(phi.shape[1], dtype=torch.float64))


def sums(phi, logits, columns=COLUMNS):
    return lowrank.update(lowrank.init(phi.shape[1], logits.shape[1], columns=columns), phi, logits)


def many_classes(n=1000):
    """φ (N, 4) and logits (N, 600) whose confusion stays mostly inside twelve groups."""
    return problem(n, WIDTH, 2)[0], confusion(MANY, 12, n, 5.0)


def estimated_hessian(posterior):
    """Estimate (C, C) of U in the posterior."""
    t, Q, values = posterior.class_diagonal, posterior.class_vectors, posterior.class_values
    middle = torch.eye(len(t), dtype=torch.float64) + Q @ torch.diag(values - 1) @ Q.T
    return t.sqrt()[:, None] * middle * t.sqrt()


def dense_covariance(posterior, phi):
    """Covariance (N, C, C) from a dense inverse for each eigenvalue of the features."""
    U, prior = estimated_hessian(posterior), posterior.prior_precision * torch.diag(posterior.class_precision)
    inverses = torch.stack([torch.linalg.inv(a * U + prior) for a in posterior.feature_values])
    return torch.einsum("nd,dij->nij", (phi @ posterior.feature_vectors).square(), inverses)


GAMMAS = [None, torch.linspace(0.2, 3, MANY)]


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("delta", [1e-3, 1.0, 1e3])
def test_above_the_sketch_width_moments_are_those_of_its_estimated_hessian(delta, gamma):
    phi, logits = many_classes()
    posterior = lowrank.Posterior.fit(sums(phi, logits), delta, class_precision=gamma)
    assert posterior.class_vectors.shape[1] < COLUMNS
    at = phi[:3]
    expected = dense_covariance(posterior, at)
    close = {"rtol": 1e-6, "atol": 1e-8 * float(expected.max())}
    torch.testing.assert_close(posterior.covariance(at), expected, **close)
    variance = posterior.moments(at, logits[:3]).variance
    torch.testing.assert_close(variance, expected.diagonal(dim1=1, dim2=2), rtol=1e-6, atol=0)
    visible = posterior.centered_variance(posterior.spectrum(at))
    torch.testing.assert_close(visible, centered(expected).diagonal(dim1=1, dim2=2), rtol=1e-6, atol=0)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_above_the_sketch_width_offsets_carry_the_covariance_that_a_softmax_can_see(gamma):
    phi, logits = many_classes()
    posterior = lowrank.Posterior.fit(sums(phi, logits), 1.0, class_precision=gamma)
    offsets = posterior.sample_offsets(torch.eye(MANY, dtype=torch.float64))
    coefficients = posterior.coefficients(posterior.spectrum(phi[:3]), offsets)
    deviations = torch.einsum("nr,rsc->nsc", coefficients, offsets.values)
    expected = centered(dense_covariance(posterior, phi[:3]))
    error = (deviations.mT @ deviations - expected).norm(dim=(1, 2))
    assert (error < 0.01 * expected.norm(dim=(1, 2))).all()


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("delta", [1e-3, 1.0, 1e3])
def test_above_the_sketch_width_the_evidence_is_that_of_its_estimated_hessian(delta, gamma):
    phi, logits = many_classes()
    posterior = lowrank.Posterior.fit(sums(phi, logits), delta, class_precision=gamma)
    weights = torch.randn(MANY, WIDTH, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    U, prior = estimated_hessian(posterior), delta * posterior.class_precision
    log_dets = sum(torch.logdet(a * U + torch.diag(prior)) for a in posterior.feature_values)
    penalty = (prior[:, None] * weights.square()).sum()
    expected = -12.5 - (penalty - WIDTH * prior.log().sum() + log_dets) / 2
    torch.testing.assert_close(posterior.log_marginal_likelihood(weights, -12.5), expected, rtol=1e-9, atol=1e-6)


def test_the_evidence_is_that_of_a_gaussian_around_the_weights():
    """Computed densely: prior and posterior over W (C·D,), and the likelihood at its mode."""
    phi, logits = problem(200, 3, 4)
    gamma = torch.tensor([0.5, 1.0, 2.0, 4.0], dtype=torch.float64)
    weights = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    prior = 0.3 * torch.kron(gamma, torch.ones(3, dtype=torch.float64))
    precision = torch.kron(softmax_hessian(logits), feature_moment(phi)) + torch.diag(prior)
    log_prior = torch.distributions.Normal(0, prior.rsqrt()).log_prob(weights.flatten()).sum()
    expected = -40 + log_prior + 6 * math.log(2 * math.pi) - torch.logdet(precision) / 2
    posterior = lowrank.Posterior.fit(sums(phi, logits), 0.3, class_precision=gamma)
    torch.testing.assert_close(posterior.log_marginal_likelihood(weights, -40.0), expected, rtol=1e-9, atol=1e-8)


@pytest.mark.parametrize("delta", [1e-2, 1.0, 1e2])
def test_gradients_in_the_prior_are_those_of_the_functions(delta):
    phi, logits = many_classes(500)
    posterior = lowrank.Posterior.fit(sums(phi, logits))
    spectrum, weights = posterior.spectrum(phi[:5]), logits.T[:, :WIDTH]

    def both(log_delta):
        changed = posterior.with_prior(log_delta.exp())
        variance = changed.centered_variance(spectrum).log().mean()
        return torch.stack([variance, changed.log_marginal_likelihood(weights)])

    at = torch.tensor(delta, dtype=torch.float64).log()
    got = torch.autograd.functional.jacobian(both, at)
    difference = (both(at + 1e-4) - both(at - 1e-4)) / 2e-4
    torch.testing.assert_close(got, difference, rtol=1e-6, atol=0)


def test_confusion_inside_groups_is_estimated_far_better_than_by_the_diagonal():
    """Mean error of the variances relative to `kronecker` with its exact Hessian."""
    phi, logits = problem(8000, WIDTH, 2)[0], confusion(MANY, 12, 8000, 8.0)
    exact = kronecker.Posterior.fit(kronecker.update(kronecker.init(WIDTH, MANY), phi, logits), 0.3)
    expected = exact.centered_variance(exact.spectrum(phi[:20]))

    def error(statistics):
        posterior = lowrank.Posterior.fit(statistics, 0.3)
        return (posterior.centered_variance(posterior.spectrum(phi[:20])) / expected - 1).abs().mean()

    sketched = sums(phi, logits, columns=128)
    alone = lowrank.Statistics(sketched.features, sketched.diagonal, torch.zeros_like(sketched.sketch), sketched.count)
    assert error(sketched) < 0.04 < 0.33 * error(alone)


def test_above_the_sketch_width_sums_merge_and_the_same_data_give_the_same_bytes():
    phi, logits = many_classes(300)
    whole = sums(phi, logits)
    parts = [sums(a, b) for a, b in zip(phi.split(70), logits.split(70), strict=True)]
    merged = lowrank.init(WIDTH, MANY, columns=COLUMNS)
    for part in reversed(parts):
        merged = lowrank.merge(merged, part)
    for field in fields(whole):
        got, expected = getattr(merged, field.name), getattr(whole, field.name)
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    again = lowrank.Posterior.fit(sums(phi, logits)).parts()[1]
    for name, tensor in lowrank.Posterior.fit(whole).parts()[1].items():
        assert torch.equal(tensor, again[name])


@pytest.mark.parametrize("columns", [8, 40])
def test_examples_added_to_a_posteriors_statistics_equal_fitting_at_once(columns):
    phi, logits = problem(900, 6, 40)
    first = lowrank.Posterior.fit(sums(phi[:400], logits[:400], columns))
    later = lowrank.Posterior.fit(lowrank.update(first.statistics(), phi[400:], logits[400:]))
    whole = lowrank.Posterior.fit(sums(phi, logits, columns))
    got, expected = (posterior.covariance(phi[:5]) for posterior in (later, whole))
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9 * float(expected.max()))


@pytest.mark.parametrize(("classes", "wider"), [(30, 34), (254, 260), (300, 301)])
def test_widened_statistics_are_those_of_classes_that_had_no_probability(classes, wider):
    phi, logits = problem(50, 4, classes)
    more = torch.cat([logits, torch.full((50, wider - classes), -torch.inf)], dim=1)
    got = lowrank.widen(sums(phi, logits, lowrank.sketches.COLUMNS), wider)
    expected = sums(phi, more, lowrank.sketches.COLUMNS)
    for field in fields(got):
        torch.testing.assert_close(getattr(got, field.name), getattr(expected, field.name), rtol=1e-11, atol=1e-11)
    with pytest.raises(ValueError, match=f"at least the {wider} classes"):
        lowrank.widen(got, classes)


def test_a_likelihood_without_correlations_leaves_the_classes_independent():
    def squared_error(outputs):
        return Curvature(torch.ones_like(outputs), None)

    phi, outputs = problem(50, 5, 8)
    posterior = lowrank.Posterior.fit(lowrank.update(lowrank.init(5, 8, columns=4), phi, outputs, squared_error))
    expected = torch.linalg.inv(50 * feature_moment(phi) + torch.eye(5, dtype=torch.float64))
    variance = torch.einsum("nd,de,ne->n", phi, expected, phi)
    torch.testing.assert_close(posterior.covariance(phi), variance[:, None, None] * torch.eye(8), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("columns", [2, 6])
def test_features_and_probabilities_that_are_all_zero_do_not_break_the_samples(columns):
    phi, logits = torch.zeros(10, 5), torch.full((10, 6), -1e9)
    logits[:, 2] = 0
    posterior = lowrank.Posterior.fit(sums(phi, logits, columns))
    at = torch.ones(1, 5, dtype=torch.float64)
    torch.testing.assert_close(posterior.covariance(at), 5 * torch.eye(6, dtype=torch.float64)[None])
    offsets = posterior.sample_offsets(standard_normals(4, 6))
    coefficients = posterior.coefficients(posterior.spectrum(at), offsets)
    assert torch.einsum("nr,rsc->nsc", coefficients, offsets.values).isfinite().all()


class Largest(TorchDispatchMode):
    """Record the number of elements of the largest tensor that an operation returns."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.elements = max(self.elements, leaf.numel())
        return result


def test_nothing_of_the_size_of_the_classes_squared_is_made():
    classes = 3000
    phi, logits = torch.rand(20, 16), torch.randn(20, classes, generator=torch.Generator().manual_seed(0))
    normals = standard_normals(8, classes)
    with Largest() as largest:
        posterior = lowrank.Posterior.fit(lowrank.update(lowrank.init(16, classes), phi, logits))
        posterior.moments(phi, logits)
        posterior.log_marginal_likelihood(torch.zeros(classes, 16))
        spectrum = posterior.spectrum(phi)
        assert posterior.centered_variance(spectrum).shape == (20, classes)
        offsets = posterior.sample_offsets(normals).to(torch.device("cpu"), torch.float32)
        coefficients = posterior.coefficients(spectrum, offsets)
        log_probs, _ = links.sampled(logits, coefficients, offsets.values, 1.0)
    assert log_probs.isfinite().all()
    assert largest.elements <= 256 * classes < classes**2 / 10


def test_the_estimated_memory_fits_where_kronecker_does_not():
    assert lowrank.memory(2048, 21841) < 1e9 < kronecker.memory(2048, 21841)
