"""Predictions do not depend on the batch and are finite: plain networks on raw inputs, under every default."""

import warnings

import pytest
import torch
from torch import nn

import suffice
from suffice.data.sources import digits
from suffice.network import ExitNetwork
from tests import builders


@pytest.fixture(scope="module")
def data():
    return digits.load(seed=0)


def trained(inputs, labels, outputs, loss, steps=20, width=128):
    """A multilayer perceptron after a few steps of Adam on unscaled inputs."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(inputs.shape[1], width), nn.ReLU(), nn.Linear(width, outputs))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model(inputs), labels).backward()
        optimizer.step()
    return model


def calibrated_on(model, inputs, labels, **choices):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="the (prior precision|temperature|weight) of exit")
        half = len(inputs) // 2
        options = {**builders.PAPER, **choices}
        loaders = [(inputs[:half], labels[:half])], [(inputs[half:], labels[half:])]
        return suffice.calibrate(model, *loaders, **options)


def largest_difference(calibrated, inputs):
    """Largest difference of a probability between batches of one, of seven and of all examples."""
    together = calibrated(inputs)[-1].probs
    alone = torch.cat([calibrated(x)[-1].probs for x in inputs.split(1)])
    sevens = torch.cat([calibrated(x)[-1].probs for x in inputs.split(7)])
    return float(torch.maximum((together - alone).abs().max(), (together - sevens).abs().max()))


@pytest.mark.parametrize("scale", [1.0, 255.0])
@pytest.mark.parametrize("choices", [{}, {"structure": "full", "link": "probit"}, {"structure": "lowrank"}])
def test_pixels_of_any_scale_have_equal_predictions_in_every_batch(data, scale, choices):
    inputs, labels = data.train.images.flatten(1) * scale, data.train.labels
    narrow = 16 if choices.get("structure") == "full" else 128
    model = trained(inputs, labels, 10, nn.functional.cross_entropy, width=narrow)
    calibrated = calibrated_on(model, inputs, labels, **choices)
    assert largest_difference(calibrated, data.test.images.flatten(1)[:100] * scale) < 1e-5
    assert largest_difference(calibrated.with_prior(1e-3), data.test.images.flatten(1)[:100] * scale) < 1e-5


@pytest.mark.parametrize("delta", [None, 1e-4])
def test_tables_of_few_columns_in_different_units_have_equal_predictions_in_every_batch(delta):
    """Low-rank features: forty columns are linear combinations of three."""
    generator = torch.Generator().manual_seed(0)
    columns = torch.randn(600, 3, generator=generator) @ torch.randn(3, 40, generator=generator)
    inputs = columns * torch.logspace(-2, 2, 40)
    labels = (columns[:, 0] > 0).long()
    model = trained(inputs, labels, 2, nn.functional.cross_entropy)
    calibrated = calibrated_on(model, inputs, labels)
    calibrated = calibrated if delta is None else calibrated.with_prior(delta)
    assert largest_difference(calibrated, inputs[:100]) < 1e-5


@pytest.mark.parametrize("structure", ["kronecker", "lowrank", "full", "blocks", "diagonal"])
@pytest.mark.parametrize("delta", [1e-6, 1e-3, 1.0])
@pytest.mark.parametrize("scale", [1e2, 1e4])
def test_samples_far_from_the_mean_have_equal_predictions_in_every_batch(structure, delta, scale):
    """Large features and a class that is never predicted, along which samples are 1e4 to 1e7 from the mean."""
    torch.manual_seed(0)
    inputs, head = scale * torch.randn(600, 32).relu(), nn.Linear(32, 5)
    with torch.no_grad():
        head.weight.mul_(3 / scale)
        head.bias[0] = -30
    model = nn.Sequential(nn.Identity(), head).eval()
    labels = model(inputs).argmax(dim=1)
    calibrated = calibrated_on(model, inputs, labels, structure=structure, tuning="evidence", temperature=False)
    assert largest_difference(calibrated.with_prior(delta), inputs[:60]) < 1e-5


def test_running_gives_the_answers_of_computing_all_exits(data):
    net = suffice.models.convnet(num_classes=10, widths=(4, 8))
    images, labels = data.train.images[:400] * 255, data.train.labels[:400]
    calibrated = calibrated_on(net.eval(), images, labels)
    policy = suffice.allocate(calibrated, [(images[200:], labels[200:])], budget=0.7)
    answer, full = suffice.run(calibrated, policy, data.test.images * 255), calibrated(data.test.images * 255)
    expected = torch.stack([prediction.probs for prediction in full])[answer.exit, torch.arange(len(answer.exit))]
    assert (answer.probs - expected).abs().max() < 1e-5


def huge(inputs, position):
    """Inputs with the fill value of NetCDF files in one example, whose logits are finite."""
    inputs = inputs.clone()
    inputs[position, 3] = 1e20
    return inputs


CASES = [
    ("classification", 4, {}),
    ("classification", 4, {"link": "probit"}),
    ("classification", 4, {"link": "meanfield"}),
    ("classification", 4, {"structure": "full"}),
    ("classification", 4, {"structure": "blocks"}),
    ("classification", 4, {"structure": "diagonal"}),
    ("classification", 4, {"structure": "lowrank"}),
    ("binary", 1, {}),
    ("multilabel", 3, {}),
    ("multilabel", 3, {"structure": "blocks", "link": "probit"}),
    ("regression", 1, {}),
    ("heteroscedastic", 2, {}),
]


def with_likelihood(likelihood, outputs, choices):
    torch.manual_seed(0)
    inputs, labels = torch.randn(400, 16), torch.arange(400) % 4
    if likelihood == "binary":
        labels = labels % 2
    elif likelihood == "multilabel":
        labels = torch.stack([labels % 2, labels // 2, labels == 3], dim=1)
    elif likelihood != "classification":
        labels = inputs[:, :1] + 0.1 * torch.randn(400, 1)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, outputs))
    if likelihood == "heteroscedastic":
        nn.init.zeros_(model[-1].weight[1:])
    return inputs, model, calibrated_on(model, inputs, labels, likelihood=likelihood, **choices)


@pytest.mark.parametrize(("likelihood", "outputs", "choices"), CASES)
def test_an_example_with_finite_logits_has_a_finite_answer_or_is_refused_by_its_position(likelihood, outputs, choices):
    inputs, model, calibrated = with_likelihood(likelihood, outputs, choices)
    for position in (0, 5):
        bad = huge(inputs[:8], position)
        assert model(bad).isfinite().all()
        prediction, refusal = None, ""
        try:
            prediction = calibrated(bad)[-1]
        except ValueError as error:
            refusal = str(error)
        if prediction is None:
            assert refusal.startswith("expected finite predictions at exit 0, got NaN or infinity")
            assert f" position {position} " in refusal
        else:
            assert prediction.soundness.isfinite().all()


def test_validation_examples_beyond_the_type_are_refused_by_their_position():
    torch.manual_seed(0)
    inputs, labels = torch.randn(400, 16), torch.arange(400) % 4
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
    loader = [(inputs[:100], labels[:100]), (huge(inputs[100:], 7), labels[100:])]
    with pytest.raises(ValueError, match=r"finite squared features at exit 0, .* position 107"):
        suffice.calibrate(model, [(inputs, labels)], loader)


def test_a_policy_names_the_example_with_a_prediction_that_is_not_finite():
    torch.manual_seed(0)
    net = ExitNetwork(
        [nn.Sequential(nn.Linear(16, 16), nn.ReLU()), nn.Sequential(nn.Linear(16, 16), nn.ReLU())],
        [suffice.Exit(nn.Identity(), nn.Linear(16, 4)) for _ in range(2)],
    )
    inputs, labels = torch.randn(400, 16), torch.arange(400) % 4
    calibrated = calibrated_on(net.eval(), inputs, labels, link="probit")
    policy = suffice.allocate(calibrated, [(inputs, labels)], budget=0.9)
    with pytest.raises(ValueError, match=r"finite predictions at exit 0, .* position 11"):
        suffice.run(calibrated, policy, huge(inputs[:20], 11))
