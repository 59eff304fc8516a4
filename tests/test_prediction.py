import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from suffice.prediction import Prediction, concatenate, entropy
from tests import builders


def test_entropy_of_known_distributions():
    probs = torch.tensor([[0.25] * 4, [1.0, 0, 0, 0], [0.5, 0.5, 0, 0]], dtype=torch.float64)
    expected = torch.tensor([math.log(4), 0.0, math.log(2)], dtype=torch.float64)
    torch.testing.assert_close(entropy(probs.log()), expected)


def test_the_fields_follow_from_the_log_probabilities():
    probs = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]], dtype=torch.float64)
    prediction = Prediction(probs.log(), torch.tensor([0.5, 0.2], dtype=torch.float64))
    torch.testing.assert_close(prediction.probs, probs)
    assert prediction.label.tolist() == [0, 2]
    torch.testing.assert_close(prediction.confidence, probs.amax(dim=1))
    torch.testing.assert_close(prediction.epistemic, prediction.entropy - prediction.aleatoric)
    assert len(prediction) == 2


def test_epistemic_is_never_negative():
    prediction = Prediction(torch.tensor([[0.5, 0.5]]).log(), torch.tensor([0.7]))
    assert prediction.entropy < 0.7
    assert prediction.epistemic == 0


def test_taking_and_joining_reach_the_members():
    def member(seed):
        log_probs = builders.inputs(5, 3, seed=seed).log_softmax(dim=1)
        return Prediction(log_probs, entropy(log_probs))

    whole = Prediction(member(0).log_probs, member(0).aleatoric, (member(1), member(2)))
    parts = [whole.take(torch.tensor([3, 0])), whole.take(torch.tensor([1]))]
    joined, expected = concatenate(parts), whole.take(torch.tensor([3, 0, 1]))
    assert len(joined.members) == 2
    for got, want in zip((joined, *joined.members), (expected, *expected.members), strict=True):
        assert torch.equal(got.log_probs, want.log_probs)
        assert torch.equal(got.aleatoric, want.aleatoric)


@pytest.mark.parametrize("structure", ["kronecker", None])
def test_an_ensemble_splits_its_entropy_as_the_design_says(structure):
    """Aleatoric is the weighted mean of the members' expected entropies; weights cumulative macs."""
    net, x = builders.network(), builders.inputs(40)
    calibrated = builders.untuned(net, x, structure, ensemble=True)
    alone = builders.untuned(net, x, structure, ensemble=False)(x)
    weights = torch.tensor(calibrated.costs.network, dtype=torch.float32)
    for k, answer in enumerate(calibrated(x)):
        assert len(answer.members) == k + 1
        for member, exit_alone in zip(answer.members, alone, strict=False):
            torch.testing.assert_close(member.probs, exit_alone.probs)
            torch.testing.assert_close(member.aleatoric, exit_alone.aleatoric)
        share = weights[: k + 1] / weights[: k + 1].sum()
        probs = sum(w * member.probs for w, member in zip(share, answer.members, strict=True))
        aleatoric = sum(w * member.aleatoric for w, member in zip(share, answer.members, strict=True))
        torch.testing.assert_close(answer.probs, probs)
        torch.testing.assert_close(answer.aleatoric, aleatoric)
        torch.testing.assert_close(answer.entropy, torch.special.entr(probs).sum(dim=1))
        torch.testing.assert_close(answer.epistemic, answer.entropy - aleatoric, atol=1e-6, rtol=1e-4)


def test_without_posterior_and_ensemble_all_uncertainty_is_aleatoric():
    net, x = builders.network(), builders.inputs(20)
    for answer in builders.untuned(net, x, None, ensemble=False)(x):
        assert answer.members == ()
        assert (answer.epistemic == 0).all()
        torch.testing.assert_close(answer.aleatoric, answer.entropy)


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 1000),
    scale=st.floats(0.01, 100),
    temperature=st.floats(0.1, 5),
    ensemble=st.booleans(),
    structure=st.sampled_from(["kronecker", None]),
)
def test_every_answer_is_a_distribution_and_aleatoric_is_at_most_the_entropy(
    seed, scale, temperature, ensemble, structure
):
    x = builders.inputs(20, seed=seed)
    net = builders.network(seed=seed, scale=scale)
    for answer in builders.untuned(net, x, structure, ensemble, temperature=temperature)(x):
        torch.testing.assert_close(answer.probs.sum(dim=1), torch.ones(20), atol=1e-5, rtol=0)
        assert (answer.probs <= 1 + 1e-6).all()
        assert (answer.aleatoric <= answer.entropy + 1e-5).all()
        assert (answer.epistemic >= 0).all()
        assert (answer.aleatoric >= -1e-6).all()
