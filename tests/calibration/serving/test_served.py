import pytest
import torch
from torch import nn

import suffice
from tests import builders

X = builders.inputs(120)
LOADER = builders.batched(X, torch.arange(120) % 4)


def calibrated_network(net=None):
    net = builders.network() if net is None else net
    return suffice.calibrate(net, LOADER, LOADER, structure=None, temperature=False, ensemble_weights="cost")


def test_a_network_put_into_training_mode_answers_as_before_and_stays_in_it():
    calibrated = calibrated_network()
    policy = suffice.allocate(calibrated, LOADER, 0.7)
    expected = [prediction.probs for prediction in calibrated(X)], suffice.run(calibrated, policy, X).probs
    calibrated.network.train()
    found = [prediction.probs for prediction in calibrated(X)], suffice.run(calibrated, policy, X).probs
    for one, other in zip([*found[0], found[1]], [*expected[0], expected[1]], strict=True):
        assert torch.equal(one, other)
    assert all(module.training for module in calibrated.network.modules())


def test_a_plain_model_put_into_training_mode_answers_as_before_and_stays_in_it():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 4)).eval()
    calibrated = suffice.calibrate(model, LOADER, LOADER, structure=None)
    answer = calibrated(X)[-1].probs
    model.train()
    assert torch.equal(calibrated(X)[-1].probs, answer)
    assert all(module.training for module in model.modules())


def test_weights_that_do_not_count_their_changes_are_not_hashed_at_every_call(monkeypatch):
    with torch.inference_mode():
        net = builders.network()
    calibrated = calibrated_network(net)
    monkeypatch.setattr("suffice.storage.seal.check_fingerprint", lambda *_: pytest.fail("hashed"))
    assert len(calibrated(X)) == 3


def test_changed_weights_are_refused_by_every_use(tmp_path):
    calibrated = calibrated_network()
    policy = suffice.allocate(calibrated, LOADER, 0.7)
    with torch.no_grad():
        calibrated.network.exit(0).classifier.weight.add_(1e-3)
    for use in (
        lambda: calibrated(X),
        lambda: suffice.run(calibrated, policy, X),
        lambda: suffice.allocate(calibrated, LOADER, 0.7),
        lambda: suffice.save(calibrated, tmp_path / "c"),
    ):
        with pytest.raises(ValueError, match="expected a network whose weights have the hash"):
            use()
    assert not (tmp_path / "c").exists()


def test_an_example_without_its_batch_dimension_is_refused():
    calibrated = calibrated_network()
    with pytest.raises(ValueError, match=r"logits of shape \(N, 4\) at exit 0, got \(4,\); .* pass x\[None\]"):
        calibrated(X[0])
    torch.testing.assert_close(calibrated(X[0][None])[-1].probs, calibrated(X)[-1].probs[:1])


def test_outputs_of_an_input_with_a_dimension_too_many_are_refused():
    calibrated = calibrated_network()
    with pytest.raises(ValueError, match=r"logits of shape \(N, 4\) at exit 0, got \(120, 1, 4\)"):
        calibrated(X[:, None])


def test_a_stage_that_is_compiled_after_calibration_runs_compiled():
    net, runs = builders.network(), []
    calibrated = calibrated_network(net)
    expected = calibrated(X)[-1].probs

    def backend(graph, inputs):
        runs.append(len(inputs))
        return graph.forward

    torch.compiler.reset()
    net.stages[1] = torch.compile(net.stages[1], backend=backend)
    torch.testing.assert_close(calibrated(X)[-1].probs, expected)
    assert runs


class Scaled(nn.Module):
    """Scale the output of a module; the factor is no weight."""

    def __init__(self, module, factor):
        super().__init__()
        self.module, self.factor = module, factor

    def forward(self, state):
        return self.factor * self.module(state)


def test_a_stage_that_is_replaced_by_another_with_the_same_weights_runs():
    net = builders.network()
    net.stages[1] = Scaled(net.stages[1], 1.0)
    calibrated = calibrated_network(net)
    before = calibrated(X)[-1].probs
    net.stages[1] = Scaled(net.stages[1].module, 2.0)
    after = calibrated(X)[-1].probs
    assert not torch.allclose(after, before)
    torch.testing.assert_close(after, calibrated_network(net)(X)[-1].probs)
