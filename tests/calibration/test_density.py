import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch import nn

import suffice
from suffice.calibration import density
from suffice.calibration.density import Density
from suffice.network import Exit, ExitNetwork
from tests import builders, tolerances
from tests.robustness.surroundings import anywhere

CLASSES, WIDTH = 3, 4


def problem(n=200, width=WIDTH, seed=0, shift=3.0):
    """Features of three classes with one covariance, and labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (n,), generator=generator)
    means = shift * torch.randn(CLASSES, width, generator=generator, dtype=torch.float64)
    mixing = torch.randn(width, width, generator=generator, dtype=torch.float64)
    noise = torch.randn(n, width, generator=generator, dtype=torch.float64)
    return means[labels] + noise @ mixing, labels


def summed(phi, labels, classes=CLASSES):
    return density.update(density.init(phi.shape[1], classes), phi, labels)


def dense(phi, labels, x, ridge):
    """The formula for each class, computed with scipy."""
    phi, labels, x = phi.numpy(), labels.numpy(), x.numpy()
    seen = [c for c in range(CLASSES) if (labels == c).any()]
    centered = phi - np.stack([phi[labels == c].mean(axis=0) for c in labels])
    covariance = centered.T @ centered / len(phi)
    covariance += ridge * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    terms = [
        np.log((labels == c).mean()) + multivariate_normal(phi[labels == c].mean(axis=0), covariance).logpdf(x)
        for c in seen
    ]
    return np.logaddexp.reduce(np.stack(terms), axis=0)


@pytest.mark.parametrize("ridge", [1e-8, 1e-3, 1.0])
@pytest.mark.parametrize("n", [200, 20])
def test_the_density_is_that_of_scipys_gaussians(n, ridge):
    phi, labels = problem(n)
    x, _ = problem(50, seed=1)
    got = Density.fit(summed(phi, labels), ridge).log_density(x)
    np.testing.assert_allclose(got, dense(phi, labels, x, ridge), rtol=1e-9)


def test_the_classes_are_those_of_scikit_learns_linear_discriminant():
    phi, labels = problem()
    x, _ = problem(50, seed=1)
    joint = Density.fit(summed(phi, labels), ridge=1e-12).log_joint(x)
    expected = LinearDiscriminantAnalysis(solver="lsqr").fit(phi, labels).predict_log_proba(x)
    np.testing.assert_allclose(joint.log_softmax(dim=1), expected, atol=1e-6)


def test_it_integrates_to_one():
    phi, labels = problem(width=1)
    grid = torch.linspace(-60, 60, 20001, dtype=torch.float64)[:, None]
    mass = Density.fit(summed(phi, labels)).log_density(grid).exp().sum() * (grid[1] - grid[0])
    assert float(mass) == pytest.approx(1, abs=1e-6)


@settings(deadline=None, max_examples=30)
@given(cuts=st.lists(st.integers(0, 60), max_size=5), order=st.randoms())
def test_any_cut_merged_in_any_order_gives_the_same_sums(cuts, order):
    phi, labels = problem(60)
    edges = sorted({0, *cuts, 60})
    parts = [summed(phi[a:b], labels[a:b]) for a, b in pairwise(edges)]
    order.shuffle(parts)
    total = density.init(WIDTH, CLASSES)
    for part in parts:
        total = density.merge(total, part)
    whole = summed(phi, labels)
    assert torch.equal(total.counts, whole.counts)
    torch.testing.assert_close(total.sums, whole.sums)
    torch.testing.assert_close(total.products, whole.products)


def test_updating_batch_by_batch_leaves_what_it_was_given_alone():
    phi, labels = problem()
    first = summed(phi[:100], labels[:100])
    before = first.sums.clone()
    both = density.update(first, phi[100:], labels[100:])
    assert torch.equal(first.sums, before)
    torch.testing.assert_close(both.products, summed(phi, labels).products)


def test_a_class_that_was_never_seen_has_no_part_in_it():
    phi, labels = problem()
    labels = labels.clamp(max=1)
    x, _ = problem(50, seed=1)
    got = Density.fit(summed(phi, labels))
    assert got.log_joint(x)[:, 2].eq(-torch.inf).all()
    np.testing.assert_allclose(got.log_density(x), dense(phi, labels, x, density.RIDGE), rtol=1e-9)


def test_a_class_of_one_example_is_where_that_example_is():
    phi, labels = problem()
    labels, phi = labels.clamp(max=1), phi.clone()
    labels[0], phi[0] = 2, 100.0
    assert Density.fit(summed(phi, labels)).log_joint(phi[:1])[0].argmax() == 2


def test_a_feature_that_never_varied_counts_by_the_ridge():
    phi, labels = problem()
    phi = torch.cat([phi, torch.full((200, 1), 0.1, dtype=torch.float64)], dim=1)
    fitted = Density.fit(summed(phi, labels), ridge=0.1)
    x = phi.clone()
    x[:, -1] += 2.0
    centered = phi - torch.stack([phi[labels == c].mean(dim=0) for c in range(CLASSES)])[labels]
    variance = 0.1 * float(centered.square().sum()) / 200 / 5
    drop = fitted.log_density(phi) - fitted.log_density(x)
    torch.testing.assert_close(drop, torch.full_like(drop, 4 / variance / 2))


def test_fewer_examples_than_features_have_a_density():
    phi, labels = problem(10, width=40)
    got = Density.fit(summed(phi, labels))
    near, far = got.log_density(phi), got.log_density(phi + 10)
    assert near.isfinite().all()
    assert (near > far).all()


@pytest.mark.parametrize("offset", [1e3, 1e5])
def test_features_far_from_zero_have_the_density_of_those_near_it(offset):
    phi, labels = problem()
    near, far = Density.fit(summed(phi, labels)), Density.fit(summed(phi + offset, labels))
    # Sums of products, of sums and of their difference each have an error of γ times the largest square. The
    # log-density changes by half of tr(Σ⁻¹ΔΣ) + (φ − μ)ᵀΣ⁻¹ΔΣΣ⁻¹(φ − μ), and by (φ − μ)ᵀΣ⁻¹Δμ, to first order.
    square = float((phi + offset).square().max())
    moved = 3 * WIDTH * tolerances.gamma(len(phi) + 2, torch.float64) * square
    sharpness = float(torch.linalg.matrix_norm(near.whitening, 2)) ** 2
    distance = float((phi @ near.whitening - near.means[labels]).square().sum(dim=1).max())
    means = 2 * tolerances.gamma(len(phi) + 2, torch.float64) * (WIDTH * square * sharpness * distance) ** 0.5
    off = moved * sharpness * (WIDTH + distance) / 2 + means
    torch.testing.assert_close(far.log_density(phi + offset), near.log_density(phi), rtol=0, atol=off)


def test_the_rounding_of_a_great_constant_is_not_a_variance():
    phi, labels = problem()
    great = torch.full((200, 1), 1e6 + 0.1, dtype=torch.float64)
    assert Density.fit(summed(torch.cat([phi / 100, great], dim=1), labels)).whitening.isfinite().all()


def test_an_out_of_distribution_input_has_a_finite_density():
    phi, labels = problem()
    value = Density.fit(summed(phi, labels)).log_density(torch.full((1, WIDTH), 1e30))
    assert value.isfinite().all()


def test_features_that_are_the_same_in_each_class_are_refused():
    labels = torch.arange(CLASSES).repeat(20)
    phi = torch.tensor([[0.1, 0.7], [1e3, 1 / 3], [-5.0, 0.0]], dtype=torch.float64)[labels]
    with pytest.raises(ValueError, match="expected features that vary within their classes, got 60 examples whose 2"):
        Density.fit(summed(phi, labels))


def test_nothing_has_no_density():
    with pytest.raises(ValueError, match="at least one example, got none"):
        Density.fit(density.init(WIDTH, CLASSES))


@pytest.mark.parametrize("ridge", [0.0, -1.0, math.nan])
def test_a_ridge_is_above_zero(ridge):
    phi, labels = problem()
    with pytest.raises(ValueError, match="expected a ridge above 0"):
        Density.fit(summed(phi, labels), ridge)


class TestOfANetwork:
    def data(self, net, n=120):
        x = builders.inputs(n).to(net.exit(0).classifier.weight.dtype)
        return x, builders.batched(x, builders.sampled_labels(net(x)[-1], 1.5), 32)

    def features(self, net, x, k):
        state = x
        with torch.no_grad():
            for j in range(k + 1):
                state, phi = net.advance(j, state)
        return phi

    @pytest.mark.parametrize(("exit_", "k"), [(-1, 2), (0, 0), (1, 1), (-3, 0)])
    @pytest.mark.parametrize("nested", [False, True])
    def test_it_scores_the_features_of_the_exit_that_was_named(self, exit_, k, nested):
        net = builders.network(nested=nested).double()  # float32 features depend on the batch by their rounding
        x, loader = self.data(net)
        score = density.fit(net, loader, exit=exit_)
        labels = torch.cat([y for _, y in loader])
        phi = self.features(net, x, k)
        expected = Density.fit(summed(phi, labels, 4)).log_density(phi)
        torch.testing.assert_close(score(x), expected)
        assert score(x).shape == (120,)

    def test_familiar_inputs_score_higher(self):
        net = builders.network()
        x, loader = self.data(net)
        score = density.fit(net, loader, exit=0)
        scores = torch.cat([score(x), score(builders.inputs(120, seed=1) * 8)])
        assert suffice.metrics.auroc(scores, torch.arange(240) < 120) > 0.9

    def test_modes_come_back_and_dropout_is_off(self):
        stages = [nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(0.5))]
        net = ExitNetwork(stages, [Exit(nn.Identity(), nn.Linear(8, 4))]).train()
        x, loader = self.data(net)
        score = density.fit(net, loader)
        assert torch.equal(score(x), score(x))
        assert all(module.training for module in net.modules())

    def test_a_plain_model_will_do_and_every_batch_is_read(self, tmp_path):
        model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 4)).double()  # as above
        x = builders.inputs(120).double()
        labels = builders.sampled_labels(model(x))
        score = density.fit(model, iter(builders.batched(x, labels, 32)))
        with torch.no_grad():
            expected = Density.fit(summed(model[:2](x), labels, 4)).log_density(model[:2](x))
        torch.testing.assert_close(score(x), expected)
        suffice.save(score, tmp_path / "d")
        assert torch.equal(suffice.load(tmp_path / "d", network=model)(x), score(x))

    def test_a_reloaded_score_gives_the_same_bytes(self, tmp_path):
        net = builders.network()
        x, loader = self.data(net)
        score = density.fit(net, loader, exit=1)
        suffice.save(score, tmp_path / "d")
        again = suffice.load(tmp_path / "d", network=net)
        assert torch.equal(again(x), score(x))
        with pytest.raises(ValueError, match="whose weights have the hash"):
            suffice.load(tmp_path / "d", network=builders.network(seed=1))

    @pytest.mark.parametrize("exit_", [3, -4])
    def test_an_exit_that_is_not_there_is_refused(self, exit_):
        with pytest.raises(ValueError, match=f"expected an exit from -3 to 2, got {exit_}"):
            density.fit(builders.network(), [], exit=exit_)

    def test_an_empty_loader_is_refused(self):
        with pytest.raises(ValueError, match="empty loader"):
            density.fit(builders.network(), [])

    def test_labels_are_needed(self):
        with pytest.raises(ValueError, match="inputs alone"):
            density.fit(builders.network(), [builders.inputs(5)])

    def test_features_that_are_not_finite_are_named_by_position(self):
        class Reciprocal(nn.Module):
            def forward(self, state):
                return 1 / state

        net = ExitNetwork([Reciprocal()], [Exit(nn.Identity(), nn.Linear(3, 4))])
        _, loader = self.data(builders.network())
        loader = [(x.clone(), y) for x, y in loader]
        score = density.fit(net, loader)
        loader[2][0][4, 1] = 0
        with pytest.raises(ValueError, match=r"finite features at exit 0, .* at position 68 "):
            density.fit(net, loader)
        with pytest.raises(ValueError, match=r"finite features at exit 0, .* at position 4 "):
            score(loader[2][0])


@anywhere
def test_ambient_modes_change_nothing(surrounding):
    x = builders.inputs(60)
    net, loader = builders.network(), builders.batched(x, torch.arange(60) % 4)
    expected = density.fit(net, loader)
    with surrounding():
        result = density.fit(net, loader)
        assert torch.equal(result(x), expected(x))
    assert not any(tensor.is_inference() for tensor in result.parts()[1].values())
