"""Scores of exits in a graph: each built-in score, and the dropout variation that a policy has learned."""

import pytest
import torch

import suffice
from suffice.budget import scores
from suffice.deploy.graphs.step import KINDS, Step, _finite, prediction_fields
from tests import builders
from tests.deploy import bundles, models
from tests.deploy.bundles import Setting, calibrated_for, policy_for

pytestmark = pytest.mark.filterwarnings("ignore:.* ended at the edge of its range", "ignore:expected a mean cost of")
CLASSES, LABELS = Setting("classification", "kronecker", "sampled", "product"), list(bundles.FEW)[3]
NUMBERS = Setting("regression", "kronecker", "probit", "average")
X = builders.inputs(20, seed=7)


def stepped(calibrated, policy, x):
    """Return the results of the steps of all exits, one after the other, without a trace."""
    state, running, streak, every = x, (), (), []
    with torch.no_grad():
        for k in range(len(calibrated.exits)):
            state, phi = calibrated.network.advance(k, state)
            outputs = calibrated.network.exit(k).classifier(phi)
            every.append(Step.of(calibrated, policy, k)(phi, outputs, state, running, streak))
            running = [tensor for name, tensor in every[-1].items() if name.startswith("next.running.")]
            streak = [tensor for name, tensor in every[-1].items() if name.startswith("next.streak.")]
    return every


@pytest.mark.parametrize(
    ("setting", "score"),
    [
        *[(CLASSES, name) for name in ("aleatoric", "confidence", "entropy", "epistemic", "margin", "patience")],
        *[(LABELS, name) for name in ("aleatoric", "confidence", "entropy", "epistemic", "margin", "patience")],
        *[(NUMBERS, name) for name in ("epistemic", "variance")],
    ],
    ids=str,
)
@pytest.mark.numerics
def test_every_score_of_every_kind_is_that_of_the_policy(setting, score):
    calibrated = calibrated_for(setting)
    *results, last = stepped(calibrated, policy_for(setting, score), X)
    assert "score" not in last
    for k, (got, prediction) in enumerate(zip(results, calibrated(X), strict=False)):
        expected = scores.evaluate(scores.resolve(score), prediction, None, k)
        allowed = bundles.score_tolerance(score, prediction, bundles.tolerance(calibrated, X))
        assert ((got["score"] - expected).abs() <= allowed).all()
        assert ("next.streak.label" in got) == (score == "patience")


def test_every_likelihood_has_the_kind_of_its_predictions():
    for name, kind in KINDS.items():
        link, structure = ("plugin", None)
        assert calibrated_for(Setting(name, structure, link, False))(X)[0].kind == kind


def test_infinite_scores_are_the_largest_numbers_and_nan_stays():
    values = torch.tensor([torch.inf, -torch.inf, 2.0, torch.nan], dtype=torch.float64)
    greatest = torch.finfo(torch.float64).max
    assert _finite(values)[:3].tolist() == [greatest, -greatest, 2.0]
    assert _finite(values)[3].isnan()


def test_the_fields_of_predictions_are_those_of_a_bundle():
    assert prediction_fields(calibrated_for(CLASSES)(X)[0]) == ["log_probs", "aleatoric"]
    assert prediction_fields(calibrated_for(LABELS)(X)[0]) == ["log_probs", "label_aleatoric"]
    assert prediction_fields(calibrated_for(NUMBERS)(X)[0]) == ["mean", "epistemic_variance", "noise_variance"]


def test_the_score_of_an_attached_exit_that_estimates_dropout_is_exported(tmp_path):
    network = models.sequential_network(bundles.CLASSES)
    x = builders.inputs(80)
    y = bundles.targets("classification", network(x)[-1])
    generator = torch.Generator().manual_seed(2)
    calibrated = suffice.calibrate(network, None, [(x, y)], structure=None)
    teacher = suffice.MCDropout(passes=4)
    score = suffice.fit_exit_variation(
        calibrated, [x[:40]], [x[40:]], teacher=teacher, hidden=(4,), epochs=2, generator=generator
    )
    policy = suffice.allocate(calibrated, [x], 0.9, score=score)
    suffice.export(calibrated, tmp_path / "bundle", policy=policy, example=x[:2])
    exported = bundles.Bundle(tmp_path / "bundle", calibrated, policy)
    assert exported.manifest["policy"]["score"] == "variation"
    assert exported.manifest["costs"]["macs"][0] == calibrated.costs.cumulative[0] + score.macs[0]
    got = next(exported.passes(X))
    expected = suffice.run(calibrated, policy, X).scores[:, 0]
    fit = score.fits[0]
    scale = float(max(layer.abs().sum() for layer in fit.parts()[1].values()))
    atol = bundles.tolerance(calibrated, X) * max(1.0, scale) ** 2
    torch.testing.assert_close(torch.from_numpy(got["score"]), expected, atol=atol, rtol=0)
