import pytest
import torch
from torch import nn

import suffice
from suffice.variation.teachers.laplace import LaplaceTeacher
from tests import builders


class LastExit(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x)[-1]


def test_the_spread_matches_the_functional_variance_of_the_posterior():
    """With two classes only the difference of the logits matters; its variance follows from the dense covariance."""
    network, x = builders.network(classes=2, scale=0.02), builders.inputs(5)
    calibrated = builders.untuned(network, builders.inputs(60), samples=512)
    samples = calibrated.logit_samples(x)
    state = x
    for k in range(3):
        state, phi = network.advance(k, state)
    posterior = calibrated.exits[-1].posterior
    covariance = posterior.covariance(torch.cat([phi, torch.ones(5, 1)], dim=1))
    contrast = torch.tensor([1.0, -1.0], dtype=covariance.dtype)
    exact = (contrast @ covariance @ contrast).sqrt()
    difference = LaplaceTeacher(lambda x: samples[..., :1] - samples[..., 1:], likelihood="binary")
    margin = nn.Sequential(LastExit(network), nn.Linear(2, 1, bias=False))
    margin[1].weight.data = torch.tensor([[1.0, -1.0]])
    torch.testing.assert_close(difference(margin, x)["std"].float(), exact.float(), rtol=0.02, atol=0)
    variation = LaplaceTeacher(calibrated.logit_samples)(network, x)
    assert variation.passes == 512
    torch.testing.assert_close(
        variation["std"], samples.double().softmax(-1).std(0, correction=0)[:, 0], rtol=1e-5, atol=0
    )


def test_an_estimator_can_learn_the_spread_under_a_posterior(generator):
    network, x = builders.network(), builders.inputs(600)
    teacher = LaplaceTeacher(builders.untuned(network, x, samples=32).logit_samples)
    estimator = suffice.fit_variation(
        network, [x], [builders.inputs(100, seed=1)], teacher=teacher, epochs=30, generator=generator
    )
    fresh = builders.inputs(200, seed=2)
    truth = teacher(network, fresh)["std"]
    assert ((estimator(fresh)[1] - truth) ** 2).mean() < 0.3 * truth.var()


def test_samples_of_another_shape_are_refused():
    network, x = builders.network(), builders.inputs(5)
    with pytest.raises(ValueError, match=r"samples \(S, 5, 4\) with S of at least 2, got shape \(1, 5, 4\)"):
        LaplaceTeacher(lambda x: torch.zeros(1, len(x), 4))(network, x)


def test_two_samples_are_enough():
    network, x = builders.network(), builders.inputs(5)
    two = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))
    variation = LaplaceTeacher(lambda x: two)(network, x)
    assert variation.passes == 2
    torch.testing.assert_close(variation.mean, two.double().softmax(-1).mean(0), rtol=1e-6, atol=0)


def test_logit_samples_need_a_sampled_posterior():
    with pytest.raises(ValueError, match="expected a sampled posterior at the last exit, got link='plugin'"):
        builders.untuned(builders.network(), builders.inputs(9), structure=None).logit_samples(builders.inputs(2))


def test_the_spread_of_several_labels_is_that_of_their_samples():
    network, x = builders.network(), builders.inputs(60)
    calibrated = suffice.calibrate(
        network, [(x, x[:, [0, 1, 2, 0]] > 0)], None, likelihood="multilabel", tuning="evidence"
    )
    variation = LaplaceTeacher(calibrated.logit_samples, likelihood="multilabel")(network, x)
    probs = calibrated.logit_samples(x).double().sigmoid()
    torch.testing.assert_close(variation["std"], probs.var(dim=0, correction=0).mean(dim=1).sqrt())
    torch.testing.assert_close(variation["std_3"], probs.std(dim=0, correction=0)[:, 3])
