"""Conformance tests of every posterior against a dense float64 oracle.

A sibling posterior inherits all tests by a subclass that says how to make it and what its precision is:

    class TestDiagonal(PosteriorConformance):
        module = diagonal
        def posterior(self, statistics, delta, gamma): return diagonal.Posterior.fit(statistics, delta, gamma)
        def precision(self, phi, logits, delta, gamma): ...   # dense (C·D, C·D), classes outermost
"""

import math
from dataclasses import fields
from itertools import pairwise
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from suffice.calibration import links
from suffice.calibration.posterior.moments import standard_normals
from suffice.storage.parts import Parts

DELTAS = [1e-2, 1.0, 30.0, 1e3]


def problem(n: int, width: int, classes: int, seed: int = 0, spread: float = 1.0) -> tuple[Tensor, Tensor]:
    """Correlated non-negative features with a decaying spectrum and a constant 1, and a head's logits."""
    generator = torch.Generator().manual_seed(seed)
    scale = torch.arange(1, width, dtype=torch.float64).pow(-1.0)
    mixing = torch.randn(width - 1, width - 1, generator=generator, dtype=torch.float64)
    raw = torch.randn(n, width - 1, generator=generator, dtype=torch.float64) * scale
    phi = torch.cat([(raw @ mixing).relu(), torch.ones(n, 1, dtype=torch.float64)], dim=1)
    head = torch.randn(width, classes, generator=generator, dtype=torch.float64) * spread
    return phi, phi @ head


def softmax_hessian(logits: Tensor) -> Tensor:
    """Sum Σ diag(p) − ppᵀ, computed for each example."""
    total = torch.zeros(logits.shape[1], logits.shape[1], dtype=torch.float64)
    for p in logits.softmax(dim=1):
        total += torch.diag(p) - torch.outer(p, p)
    return total


def feature_moment(phi: Tensor) -> Tensor:
    """Mean of φφᵀ, computed for each example."""
    return sum(torch.outer(row, row) for row in phi) / len(phi)


def uneven(classes: int) -> Tensor:
    """Prior precisions of the classes relative to δ, which differ by up to a factor of 25."""
    return torch.logspace(-0.7, 0.7, classes, dtype=torch.float64)


def centered(covariance: Tensor) -> Tensor:
    """PΣP with P = I − 11ᵀ/C, the part that affects a softmax."""
    covariance = covariance - covariance.mean(dim=-1, keepdim=True)
    return covariance - covariance.mean(dim=-2, keepdim=True)


class PosteriorConformance:
    module: ModuleType
    width = 65
    """Width D of the larger problems; smaller for posteriors whose size grows with its square."""

    def posterior(self, statistics: Any, delta: float, gamma: Tensor | None) -> Any:
        """Posterior of statistics at a prior precision and the relative precisions of the classes."""
        raise NotImplementedError

    def precision(self, phi: Tensor, logits: Tensor, delta: float, gamma: Tensor) -> Tensor:
        """Dense precision (C·D, C·D) over W (C, D), flattened with the classes outermost."""
        raise NotImplementedError

    def fit(self, phi: Tensor, logits: Tensor, delta: float = 1.0, gamma: Tensor | None = None) -> Any:
        return self.posterior(self.sums([(phi, logits)]), delta, gamma)

    def sums(self, batches: list[tuple[Tensor, Tensor]]) -> Any:
        phi, logits = batches[0]
        statistics = self.module.init(phi.shape[1], logits.shape[1])
        for phi, logits in batches:
            statistics = self.module.update(statistics, phi, logits)
        return statistics

    def dense_covariance(
        self, phi: Tensor, logits: Tensor, delta: float, at: Tensor, gamma: Tensor | None = None
    ) -> Tensor:
        """Covariance (N, C, C), J P⁻¹ Jᵀ with J = I ⊗ φᵀ at each row of `at`."""
        return self.dense_joint_covariance(phi, logits, delta, at, gamma).diagonal(dim1=0, dim2=1).permute(2, 0, 1)

    def dense_joint_covariance(
        self, phi: Tensor, logits: Tensor, delta: float, at: Tensor, gamma: Tensor | None = None
    ) -> Tensor:
        """Covariance (N, N, C, C), J P⁻¹ J'ᵀ between the logits at every two rows of `at`."""
        classes, width = logits.shape[1], phi.shape[1]
        gamma = torch.ones(classes, dtype=torch.float64) if gamma is None else gamma
        inverse = torch.linalg.inv(self.precision(phi, logits, delta, gamma))
        inverse = inverse.reshape(classes, width, classes, width)
        return torch.einsum("nd,cdCD,mD->nmcC", at, inverse, at)

    @pytest.mark.parametrize("delta", DELTAS)
    @pytest.mark.parametrize(("classes", "width"), [(2, 2), (3, 6), (6, 3), (6, 6)])
    @pytest.mark.parametrize("n", [1, 5, 200])
    @pytest.mark.parametrize("relative", [None, uneven])
    def test_covariance_and_moments_agree_with_the_dense_inverse(self, n, classes, width, delta, relative):
        phi, logits = problem(n, width, classes, seed=n)
        at, mean = problem(7, width, classes, seed=99)
        gamma = relative and relative(classes)
        expected = self.dense_covariance(phi, logits, delta, at, gamma)
        posterior = self.fit(phi, logits, delta, gamma)
        torch.testing.assert_close(posterior.covariance(at), expected, rtol=1e-8, atol=1e-8)
        moments = posterior.moments(at, mean)
        variance = expected.diagonal(dim1=1, dim2=2)
        torch.testing.assert_close(moments.variance, variance, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(posterior.variance(posterior.spectrum(at)), moments.variance)
        assert torch.equal(moments.mean, mean)

    @pytest.mark.parametrize("delta", DELTAS)
    @pytest.mark.parametrize("gamma", [None, uneven(4)])
    def test_the_centered_variance_is_that_of_centered_logits(self, delta, gamma):
        phi, logits = problem(100, 5, 4)
        posterior = self.fit(phi, logits, delta, gamma)
        expected = centered(self.dense_covariance(phi, logits, delta, phi[:7], gamma)).diagonal(dim1=1, dim2=2)
        got = posterior.centered_variance(posterior.spectrum(phi[:7]))
        torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-8)

    def test_a_class_that_never_occurs_and_dead_features_leave_the_prior_alone(self):
        phi, logits = problem(100, 5, 4)
        phi[:, 1], logits[:, 2] = 0, -torch.inf
        at = torch.zeros(1, 5, dtype=torch.float64)
        at[0, 1] = 1
        posterior = self.fit(phi, logits, 0.25)
        expected = self.dense_covariance(phi, logits, 0.25, at)
        torch.testing.assert_close(posterior.covariance(at), expected, rtol=1e-8, atol=1e-8)
        assert posterior.covariance(at).isfinite().all()

    @pytest.mark.parametrize("delta", DELTAS)
    @pytest.mark.parametrize("gamma", [None, uneven(4)])
    def test_the_evidence_is_that_of_the_dense_precision(self, delta, gamma):
        """The integral over W of the likelihood's quadratic expansion at W, times the prior's density."""
        phi, logits = problem(100, 5, 4)
        weights = torch.randn(4, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        precisions = torch.ones(4, dtype=torch.float64) if gamma is None else gamma
        prior = torch.kron(torch.diag(delta * precisions), torch.eye(5, dtype=torch.float64))
        density = torch.distributions.MultivariateNormal(torch.zeros(20).double(), precision_matrix=prior)
        total = self.precision(phi, logits, delta, precisions)
        volume = 20 / 2 * math.log(2 * math.pi) - total.logdet() / 2
        posterior = self.fit(phi, logits, delta, gamma)
        got = posterior.log_marginal_likelihood(weights, -7.5)
        assert got.dtype == torch.float64
        torch.testing.assert_close(posterior.log_marginal_likelihood(weights), got + 7.5)
        torch.testing.assert_close(got, -7.5 + density.log_prob(weights.flatten()) + volume)

    def test_multiply_adds_are_those_that_torch_counts(self):
        phi, logits = problem(100, 12, 5)
        posterior = self.fit(phi, logits)
        offsets = posterior.sample_offsets(standard_normals(8, posterior.num_normals))

        def variances():
            posterior.centered_variance(posterior.spectrum(phi))

        def samples():
            return posterior.coefficients(posterior.spectrum(phi), offsets) @ offsets.values.flatten(1)

        for compute, expected in ((variances, posterior.macs(None)), (samples, posterior.macs(offsets))):
            compute()  # cached results of the first use are not counted
            with FlopCounterMode(display=False) as counted:
                compute()
            assert counted.get_total_flops() / 2 / len(phi) == expected

    def test_the_evidence_is_differentiable_in_the_prior(self):
        phi, logits = problem(100, 5, 4)
        weights = torch.ones(4, 5)
        posterior = self.fit(phi, logits, gamma=uneven(4))
        log_delta = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(
            lambda x: posterior.with_prior(x.exp()).log_marginal_likelihood(weights), log_delta
        )

    @pytest.mark.parametrize("gamma", [None, uneven(4)])
    def test_the_statistics_come_back_from_the_posterior(self, gamma):
        sums = self.sums([problem(100, 5, 4)])
        again = self.posterior(sums, 0.3, gamma).statistics()
        assert again.count == sums.count
        for field in fields(sums):
            got, expected = (torch.as_tensor(getattr(s, field.name)).double() for s in (again, sums))
            assert (got - expected).norm() <= 1e-12 * expected.norm()

    @pytest.mark.parametrize("delta", [1e-3, 1.0])
    def test_more_data_under_the_same_prior_equal_fitting_at_once(self, delta):
        """Also with features without any data."""
        phi, logits = problem(2000, min(self.width, 33), 4)
        phi[:, 1] = 0
        once = self.fit(phi, logits, delta, uneven(4))
        before = self.fit(phi[:1000], logits[:1000], delta, uneven(4))
        later = before.refit(self.module.update(before.statistics(), phi[1000:], logits[1000:]))
        at = torch.cat([phi[:20], torch.randn(20, phi.shape[1], generator=torch.Generator().manual_seed(0))])
        expected = once.moments(at, logits[:40]).variance
        torch.testing.assert_close(later.moments(at, logits[:40]).variance, expected, rtol=1e-9, atol=0)
        normals = standard_normals(8, once.num_normals, generator=torch.Generator().manual_seed(0))
        got, expected = self.samples(later, at, normals), self.samples(once, at, normals)
        assert (got - expected).norm() <= 1e-8 * expected.norm()

    def test_new_classes_have_their_prior_only_and_old_ones_what_was_learned(self):
        phi, logits = problem(100, 5, 4)
        before = self.fit(phi, logits, 0.3, uneven(4))
        wider = before.refit(self.module.widen(before.statistics(), 6))
        covariance = wider.covariance(phi)
        torch.testing.assert_close(covariance[:, :4, :4], before.covariance(phi))
        torch.testing.assert_close(covariance[:, 4:], self.fit_nothing(100, 5, 6).covariance(phi)[:, 4:])

    def fit_nothing(self, n: int, width: int, classes: int) -> Any:
        """Posterior at δ = 0.3 of n examples without information about the classes, equal to the prior."""
        phi, _ = problem(n, width, classes)
        certain = torch.full((n, classes), -1e4, dtype=torch.float64)
        certain[:, 0] = 1e4
        return self.fit(phi, certain, 0.3)

    @pytest.mark.parametrize("gamma", [None, uneven(4)])
    def test_joint_samples_carry_the_covariance_between_examples(self, gamma):
        phi, logits = problem(100, 5, 4)
        at, count = phi[:3], 20_000
        expected = self.dense_joint_covariance(phi, logits, 0.3, at, gamma)
        draws = self.fit(phi, logits, 0.3, gamma).joint_samples(at, count, generator=torch.Generator().manual_seed(0))
        assert draws.shape == (3, count, 4)
        variance = expected.diagonal(dim1=0, dim2=1).diagonal(dim1=0, dim2=1)
        assert (draws.mean(dim=1).abs() <= 4.5 * (variance / count).sqrt()).all()
        got = torch.einsum("nsc,msC->nmcC", draws, draws) / count
        product = variance[:, None, :, None] * variance[None, :, None, :]
        assert ((got - expected).abs() <= 4.5 * ((product + expected.square()) / count).sqrt()).all()

    def test_joint_samples_of_a_row_do_not_depend_on_the_others(self):
        phi, logits = problem(60, 5, 4)
        posterior = self.fit(phi, logits)
        whole, part = (
            posterior.joint_samples(at, 3, generator=torch.Generator().manual_seed(0)) for at in (phi, phi[:7])
        )
        torch.testing.assert_close(whole[:7], part)
        assert not torch.allclose(whole[:, 0], whole[:, 1])

    @settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.differing_executors])
    @given(data=st.data(), n=st.integers(2, 40))
    def test_statistics_do_not_depend_on_how_batches_were_cut(self, data, n):
        phi, logits = problem(n, 4, 3, seed=n)
        cuts = [0, *sorted(data.draw(st.sets(st.integers(1, n - 1), max_size=5))), n]
        parts = [(phi[a:b], logits[a:b]) for a, b in pairwise(cuts)]
        whole, one_by_one = self.sums([(phi, logits)]), self.sums(parts)
        merged = self.module.init(4, 3)
        for part in data.draw(st.permutations(parts)):
            merged = self.module.merge(merged, self.sums([part]))
        for field in fields(whole):
            for other in (one_by_one, merged):
                got, expected = getattr(other, field.name), getattr(whole, field.name)
                torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)

    def test_updating_leaves_the_statistics_given_unchanged(self):
        phi, logits = problem(10, 4, 3)
        before = self.sums([(phi, logits)])
        copies = {f.name: torch.as_tensor(getattr(before, f.name)).clone() for f in fields(before)}
        self.module.update(before, phi, logits)
        self.module.merge(before, before)
        for name, copy in copies.items():
            assert torch.equal(torch.as_tensor(getattr(before, name)), copy)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_sums_are_kept_in_float64_whatever_the_type_of_the_network(self, dtype):
        phi, logits = (tensor.to(dtype) for tensor in problem(50, 4, 3))
        got, expected = self.sums([(phi, logits)]), self.sums([(phi.double(), logits.double())])
        for field in fields(got):
            assert torch.equal(
                torch.as_tensor(getattr(got, field.name)), torch.as_tensor(getattr(expected, field.name))
            )

    @pytest.mark.parametrize("delta", DELTAS)
    def test_changing_the_prior_equals_fitting_anew(self, delta):
        phi, logits = problem(60, 5, 4)
        changed, anew = self.fit(phi, logits, 1.0).with_prior(delta), self.fit(phi, logits, delta)
        torch.testing.assert_close(changed.covariance(phi), anew.covariance(phi))
        normals = standard_normals(8, anew.num_normals, generator=torch.Generator().manual_seed(0))
        for a, b in zip(self.samples(changed, phi, normals), self.samples(anew, phi, normals), strict=True):
            torch.testing.assert_close(a, b)

    def samples(self, posterior: Any, phi: Tensor, normals: Tensor) -> Tensor:
        """Deviations (N, S, C) of joint samples from the mean."""
        offsets = posterior.sample_offsets(normals)
        coefficients = posterior.coefficients(posterior.spectrum(phi), offsets)
        return torch.einsum("nr,rsc->nsc", coefficients, offsets.values)

    @pytest.mark.parametrize("delta", [1e-3, 1e-2, 1.0, 1e3])
    @pytest.mark.parametrize(
        ("classes", "spread", "gamma"),
        [(3, 1.0, None), (10, 1.0, None), (40, 1.0, None), (40, 10.0, None), (10, 1.0, uneven(10))],
    )
    def test_offsets_carry_the_covariance_that_a_softmax_can_see(self, classes, spread, gamma, delta):
        """Unit vectors in place of normals leave only the error of the low-rank basis: 1 % of Σ, half that of √Σ."""
        phi, logits = problem(800, self.width, classes, spread=spread)
        posterior = self.fit(phi, logits, delta, gamma)
        deviations = self.samples(posterior, phi[:100], torch.eye(posterior.num_normals, dtype=torch.float64))
        got = torch.einsum("nsi,nsj->nij", deviations, deviations)
        expected = centered(posterior.covariance(phi[:100]))
        error = (got - expected).norm(dim=(1, 2)) / expected.norm(dim=(1, 2))
        assert error.max() < 0.01

    def test_a_rare_class_does_not_cost_the_common_ones_their_accuracy(self):
        """Variances of the differences of neighboring classes, very different in size, have errors below 5 %."""
        phi, logits = problem(2000, min(self.width, 20), 30)
        logits = logits - torch.arange(30)
        posterior = self.fit(phi, logits, 0.01)
        eye = torch.eye(posterior.num_normals, dtype=torch.float64)
        got = self.samples(posterior, phi[:100], eye).diff(dim=2).square().sum(dim=1)
        contrast = torch.eye(30, dtype=torch.float64).diff(dim=0)
        expected = (contrast @ posterior.covariance(phi[:100]) @ contrast.T).diagonal(dim1=1, dim2=2)
        assert expected.max() > 30 * expected.min()
        assert ((got - expected).abs() / expected).max() < 0.05

    def test_many_samples_have_the_covariance_of_the_posterior(self):
        phi, logits = problem(200, 6, 5)
        posterior = self.fit(phi, logits, 0.5)
        normals = standard_normals(4096, posterior.num_normals, generator=torch.Generator().manual_seed(0))
        deviations = self.samples(posterior, phi[:10], normals)
        torch.testing.assert_close(deviations.mean(dim=1), torch.zeros(10, 5).double(), atol=1e-12, rtol=0)
        got = torch.einsum("nsi,nsj->nij", deviations, deviations) / 4096
        expected = centered(posterior.covariance(phi[:10]))
        assert ((got - expected).norm(dim=(1, 2)) < 0.02 * expected.norm(dim=(1, 2))).all()

    @pytest.mark.parametrize("delta", [1e-2, 1.0, 30.0, 1e3])
    @pytest.mark.parametrize("classes", [3, 10, 40])
    def test_the_sampled_link_agrees_with_monte_carlo_from_the_dense_covariance(self, classes, delta):
        """With 100,000 draws and many samples only sampling errors remain; with 32 samples the error is small."""
        phi, logits = problem(300, 6, classes, spread=2.0)
        at, mean = phi[:3], logits[:3]
        truth, spread = self.monte_carlo(self.dense_covariance(phi, logits, delta, at), mean)
        posterior = self.fit(phi, logits, delta)

        many = 4096
        error = self.link(posterior, at, mean, many) - truth
        allowed = 4.5 * spread * (1 / many + 1e-5) ** 0.5
        assert (error.abs() <= allowed + 5e-4).all()

        repeats = [self.link(posterior, at, mean, 32, seed) - truth for seed in range(8)]
        rms = torch.stack(repeats).square().mean().sqrt()
        assert rms <= spread.square().mean().sqrt() / 32**0.5

    def link(self, posterior: Any, phi: Tensor, mean: Tensor, samples: int, seed: int = 0) -> Tensor:
        normals = standard_normals(samples, posterior.num_normals, generator=torch.Generator().manual_seed(seed))
        offsets = posterior.sample_offsets(normals)
        coefficients = posterior.coefficients(posterior.spectrum(phi), offsets)
        return links.sampled(mean, coefficients, offsets.values, 1.0)[0].exp()

    def monte_carlo(self, covariance: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (N, C) of softmax(f), f ~ N(mean, covariance), from 100,000 draws."""
        generator = torch.Generator().manual_seed(7)
        z = torch.randn(100_000, mean.shape[1], generator=generator, dtype=torch.float64)
        rows = []
        for mu, factor in zip(mean, torch.linalg.cholesky(covariance), strict=True):
            probs = (mu + z @ factor.T).softmax(dim=1)
            rows.append((probs.mean(dim=0), probs.std(dim=0)))
        means, deviations = zip(*rows, strict=True)
        return torch.stack(means), torch.stack(deviations)

    def test_offsets_are_differentiable_in_the_prior_through_their_coefficients(self):
        phi, logits = problem(60, 5, 4)
        log_delta = torch.zeros((), dtype=torch.float64, requires_grad=True)
        posterior = self.fit(phi, logits).with_prior(log_delta.exp())
        normals = standard_normals(8, posterior.num_normals, generator=torch.Generator().manual_seed(0))
        offsets = posterior.sample_offsets(normals)
        coefficients = posterior.coefficients(posterior.spectrum(phi), offsets)
        torch.einsum("nr,rsc->nsc", coefficients, offsets.values).square().sum().backward()
        assert log_delta.grad < 0

    def test_offsets_do_not_depend_on_an_installed_optimizer_of_einsum(self):
        phi, logits = problem(60, 5, 4)
        posterior = self.fit(phi, logits, 0.5)
        normals = standard_normals(8, posterior.num_normals, generator=torch.Generator().manual_seed(0))
        offsets = posterior.sample_offsets(normals)
        with torch.backends.opt_einsum.flags(enabled=False):
            again = posterior.sample_offsets(normals)
        assert torch.equal(offsets.values, again.values)

    def test_the_parts_of_an_artifact_make_the_same_posterior(self):
        phi, logits = problem(60, 5, 4)
        posterior = self.fit(phi, logits, 0.3, uneven(4))
        copy = type(posterior).from_parts(Parts(*posterior.parts()))
        assert torch.equal(copy.covariance(phi), posterior.covariance(phi))
