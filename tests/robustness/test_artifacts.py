"""Artifacts written by an earlier commit still load, with the predictions stored beside them.

The files in `tests/robustness/artifacts` were written at commit f40c33f (version 0.1.0): one artifact of each kind, the
weights of the two networks that they were fitted for, and the predictions for 16 inputs. They are not to be written
anew; a change that makes them unreadable needs a new format number and a way to read the old one.
"""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import suffice
from suffice.storage import artifact
from tests import tolerances

FOLDER = Path(__file__).parent / "artifacts"
STORED = load_file(FOLDER / "predictions.safetensors")
X = STORED["x"]

TERMS = 64
"""Upper bound on the float32 roundings between an input and a prediction, over at most three layers.

Each layer adds at most 9 products and takes a tanh; moments, link, softmax and ensemble add at most 30 operations.
"""


def exits() -> suffice.ExitNetwork:
    """Return the network with two exits."""
    stages = [nn.Sequential(nn.Linear(3, 3), nn.Tanh()), nn.Sequential(nn.Linear(3, 4), nn.Tanh())]
    network = suffice.ExitNetwork(stages, [suffice.Exit(nn.Identity(), nn.Linear(width, 4)) for width in (3, 4)])
    return with_stored_weights(network, "exits.")


def plain() -> nn.Module:
    """Return the plain network with dropout."""
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, 4))
    return with_stored_weights(model, "plain.")


def with_stored_weights(model, prefix):
    weights = load_file(FOLDER / "weights.safetensors")
    model.load_state_dict({k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)})
    return model.eval()


def tolerance(model: nn.Module) -> float:
    """Return a bound on the rounding errors of float32 predictions for X.

    A layer enlarges the error of its input by at most the largest row sum of its absolute weights, and tanh does not
    enlarge it, so the errors of all layers are at most γ of the product of these sums and the largest input.
    """
    size = max(1.0, float(X.abs().max()))
    for module in model.modules():
        if isinstance(module, nn.Linear):
            row_sums = module.weight.abs().sum(dim=1) + module.bias.abs()
            size *= max(1.0, float(row_sums.detach().max()))
    return tolerances.gamma(TERMS, torch.float32) * size


def load(kind, network=None):
    return suffice.load(FOLDER / kind, network=network)


def assert_stored(name: str, values: Tensor, atol: float) -> None:
    assert values.dtype == STORED[name].dtype
    torch.testing.assert_close(values, STORED[name], rtol=0, atol=atol, msg=lambda text: f"{name}: {text}")


def test_there_is_an_artifact_of_each_kind():
    assert {path.name for path in FOLDER.iterdir() if path.is_dir()} == set(artifact._KINDS)


def test_a_calibrated_network_of_an_earlier_commit_predicts_the_same():
    network = exits()
    atol = tolerance(network)
    for k, prediction in enumerate(load("calibrated", network)(X)):
        assert_stored(f"calibrated.{k}.log_probs", prediction.log_probs, atol)
        assert_stored(f"calibrated.{k}.aleatoric", prediction.aleatoric, atol)


def test_a_policy_of_an_earlier_commit_stops_the_same_examples():
    network = exits()
    policy = load("policy")
    answer = suffice.run(load("calibrated", network), policy, X)
    stored = STORED["policy.scores"]
    assert float((stored - policy.thresholds).abs().min()) > 10 * tolerance(network)  # rounding changes no exit
    assert torch.equal(answer.exit, STORED["policy.exit"])
    # The score is the log-odds of a probability that is computed in float32.
    torch.testing.assert_close(answer.scores.sigmoid(), stored.sigmoid(), rtol=0, atol=tolerance(network))


def test_a_density_of_an_earlier_commit_scores_the_same():
    network = exits()
    score = load("density", network)
    # Features φ lie in [−1, 1]. The rounding of φW is at most the largest column sum of |W| times that of φ, and half
    # the squared distance to a mean changes by the distance times the change of φW.
    whitening, means = score.density.whitening, score.density.means
    column_sum = float(whitening.abs().sum(dim=0).max())
    distance = len(whitening) ** 0.5 * column_sum + float(means.norm(dim=1).max())
    assert_stored("density", score(X), tolerance(network) * column_sum * distance)


@pytest.mark.parametrize("name", ["output", "variation", "clipped"])
def test_a_variation_estimator_of_an_earlier_commit_estimates_the_same(name):
    model = plain()
    estimate = load("variation-estimator", model).estimate(X)
    assert_stored(f"variation-estimator.{name}", getattr(estimate, name), tolerance(model))
    assert torch.equal(estimate.outside, STORED["variation-estimator.outside"])


def test_buckets_of_an_earlier_commit_predict_the_same():
    model = plain()
    output, probs = load("buckets", model)(X)
    assert_stored("buckets.output", output, tolerance(model))
    assert_stored("buckets.probs", probs, tolerance(model))
