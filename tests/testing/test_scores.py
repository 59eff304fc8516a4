import pytest
import torch

from suffice import MCDropout
from suffice.budget import scores as scoring
from suffice.budget.exit_variation import fit_exit_variation
from suffice.testing import check_score
from tests import builders
from tests.robustness import kinds

X = builders.inputs(12)


@pytest.fixture(scope="module")
def calibrated():
    return builders.untuned(builders.network(), builders.inputs(64, seed=1))


def noisy(prediction, state):
    return prediction.confidence + torch.rand(len(prediction), generator=GENERATOR)


GENERATOR = torch.Generator().manual_seed(0)


def global_noise(prediction, state):
    torch.rand(1)
    return prediction.confidence


def writing(prediction, state):
    prediction.aleatoric.mul_(2)
    return prediction.confidence


def writing_state(prediction, state):
    state.add_(1)
    return prediction.confidence


def failing(prediction, state):
    return prediction.nosuch


WRONG = {
    "a name": ("surest", "is a score"),
    "no function": (3, "is a score"),
    "one argument": (lambda prediction: prediction.confidence, "is a score"),
    "an exception": (failing, "returns one number per example"),
    "a list": (lambda p, s: p.confidence.tolist(), "returns one number per example"),
    "a column": (lambda p, s: p.confidence[:, None], "returns one number per example"),
    "a scalar": (lambda p, s: p.confidence.mean(), "returns one number per example"),
    "NaN": (
        lambda p, s: p.confidence * torch.nan,
        "returns one number per example",
    ),
    "complex numbers": (lambda p, s: p.confidence + 0j, "returns one number per example"),
    "the wrong kind": ("variance", "returns one number per example"),
    "another device": (lambda p, s: p.confidence.to("meta"), "returns one number per example"),
    "noise": (noisy, "is deterministic"),
    "noise of the default generator": (global_noise, "leaves torch's default generator alone"),
    "a rank": (lambda p, s: p.confidence.argsort().argsort().float(), "scores do not depend on companions"),
    "relative": (lambda p, s: p.confidence / p.confidence.max(), "scores do not depend on companions"),
    "sorted": (lambda p, s: p.confidence.sort().values, "scores do not depend on companions"),
    "the batch size": (lambda p, s: p.confidence + len(p), "scores do not depend on companions"),
    "a write": (writing, "leaves its inputs unchanged|is deterministic"),
    "a write into the state": (writing_state, "leaves its inputs unchanged"),
}


@pytest.mark.filterwarnings("ignore:.*complex")
@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_score_violates_a_named_rule(name, calibrated):
    score, rule = WRONG[name]
    with pytest.raises(AssertionError, match=rf"^rule ['\"]({rule})['\"]: "):
        check_score(score, calibrated, X)


@pytest.mark.parametrize("name", sorted(set(scoring.SCORES) - {"variance"}))
def test_built_in_scores_pass(name, calibrated):
    check_score(name, calibrated, X)


def test_scores_of_a_regression_pass():
    on = kinds.base("regression")
    check_score("variance", on, X)
    check_score("epistemic", on, X)


def test_scores_of_the_state_and_of_nested_states_pass():
    check_score(lambda p, s: -s["h"].norm(dim=1), builders.untuned(builders.network(nested=True), X), X)


def test_a_fitted_score_passes_and_one_of_another_network_does_not(calibrated):
    on = kinds.calibrated(model=kinds.with_dropout, structure=None).made
    teacher, generator = MCDropout(passes=4), torch.Generator().manual_seed(0)
    score = fit_exit_variation(on, [kinds.X], [-kinds.X], teacher=teacher, hidden=(4,), epochs=1, generator=generator)
    check_score(score, on, X)
    with pytest.raises(
        AssertionError, match=r"rule 'is a score': ValueError: expected a score of this calibrated network"
    ):
        check_score(score, calibrated, X)


class PerExit:
    def __init__(self, made_for, macs):
        self.made_for, self.macs = made_for, macs

    def at(self, k):
        return lambda prediction, state: prediction.confidence


@pytest.mark.parametrize("macs", [(1, 2), (1, 2, -3), (1, 2, 3.5)])
def test_a_score_without_a_cost_for_each_exit_violates_a_rule(macs, calibrated):
    check_score(PerExit(calibrated.digest, (1, 2, 3)), calibrated, X)
    with pytest.raises(AssertionError, match="rule 'is a score': expected macs with 3 integers"):
        check_score(PerExit(calibrated.digest, macs), calibrated, X)


def test_arguments_of_the_check_are_checked(calibrated):
    with pytest.raises(TypeError, match="expected a calibrated network, got ExitNetwork"):
        check_score("confidence", builders.network(), X)
    with pytest.raises(ValueError, match="at least 2 different examples"):
        check_score("confidence", calibrated, X[:1])
