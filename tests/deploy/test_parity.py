from dataclasses import replace

import numpy as np
import pytest
import torch

import suffice
from suffice.deploy import parity
from suffice.deploy.parity import Parity
from suffice_runtime import Runner
from tests import builders
from tests.deploy import bundles, models

pytestmark = pytest.mark.filterwarnings("ignore:.* ended at the edge of its range", "ignore:expected a mean cost of")

SETTINGS = list(bundles.FEW)


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_a_bundle_agrees_with_its_network_on_batches_of_other_sizes(bundle, setting):
    folder, calibrated, policy = (getattr(bundle(setting), name) for name in ("folder", "calibrated", "policy"))
    batches = [builders.inputs(n) for n in (1, 40, 7)]
    found = parity.compare(calibrated, folder, batches, policy)
    assert found.examples == 48
    assert len(found.differences) == len(calibrated.exits)
    assert found.holds()
    assert parity.compare(calibrated, folder, batches).moved == 0


def test_texts_of_other_lengths_are_compared(text_bundle):
    batches = [models.texts(20), {name: x[:, :5] for name, x in models.texts(9).items()}]
    found = parity.compare(text_bundle.calibrated, text_bundle.folder, batches, text_bundle.policy)
    assert (found.examples, found.holds()) == (29, True)


def test_other_probabilities_and_other_exits_are_found(bundle, monkeypatch):
    chosen = bundle(SETTINGS[0])
    predict, run = Runner.predict, Runner.run

    def shifted(runner, x):
        first, *others = predict(runner, x)
        return [replace(first, log_probs=first.log_probs - np.float32(0.5)), *others]

    def one_exit_later(runner, x):
        answer = run(runner, x)
        moved = answer.exit == 0
        scores = np.where(moved[:, None], answer.scores + 0.25, answer.scores)
        return replace(answer, exit=np.where(moved, 1, answer.exit), scores=scores)

    monkeypatch.setattr(Runner, "predict", shifted)
    monkeypatch.setattr(Runner, "run", one_exit_later)
    x = builders.inputs(40)
    found = parity.compare(chosen.calibrated, chosen.folder, [x], chosen.policy)
    probs = chosen.calibrated(x)[0].probs
    assert found.differences[0] == pytest.approx(float(probs.max()) * (1 - np.exp(-0.5)), rel=1e-4)
    assert max(found.differences[1:]) < 1e-4
    answer = suffice.run(chosen.calibrated, chosen.policy, x)
    scores = answer.scores[answer.exit == 0, 0]
    assert found.moved == len(scores) > 0
    threshold = float(chosen.policy.thresholds[0])
    nearest = torch.minimum((scores - threshold).abs(), (scores + 0.25 - threshold).abs())
    assert found.distance == pytest.approx(float(nearest.max()), abs=1e-5)
    assert not found.holds()


def test_the_bundle_of_another_network_or_policy_is_refused(bundle):
    chosen, other = bundle(SETTINGS[0]), bundle(SETTINGS[1])
    with pytest.raises(ValueError, match="expected a bundle of this calibrated network"):
        parity.compare(other.calibrated, chosen.folder, [builders.inputs(2)])
    moved = replace(chosen.policy, thresholds=chosen.policy.thresholds + 1)
    with pytest.raises(ValueError, match="expected the policy that the bundle was exported with"):
        parity.compare(chosen.calibrated, chosen.folder, [builders.inputs(2)], moved)


def test_without_the_runtime_the_error_names_it(bundle, monkeypatch):
    chosen = bundle(SETTINGS[0])
    monkeypatch.setattr(parity, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="expected the package suffice-runtime"):
        parity.compare(chosen.calibrated, chosen.folder, [builders.inputs(2)])


def test_a_difference_that_is_not_a_number_is_not_lost_among_others():
    nan = Parity(5, (0.1, float("nan")), 0, 0.0)
    good = Parity(5, (0.0, 1e-6), 0, 0.0)
    for total in (nan + good, good + nan):
        assert total.examples == 10
        assert np.isnan(total.differences[1])
        assert not total.holds(1.0)
    assert not Parity(5, (0.0,), 1, float("nan")).holds()
    assert (good + good).holds()
