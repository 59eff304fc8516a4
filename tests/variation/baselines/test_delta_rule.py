import pytest
import torch
from torch import nn

from suffice.models import convnet
from suffice.variation.baselines.delta_rule import delta_rule
from suffice.variation.teachers.dropout import MCDropout
from tests import tolerances
from tests.robustness.surroundings import anywhere


@pytest.fixture(autouse=True)
def seeded():
    """Seed every network and input of these tests."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def nearly_linear(dropout, features, scale=1e-3):
    """Make a model of two classes whose probability is linear in the last layer's inputs, up to O(scale²)."""
    model = nn.Sequential(dropout, nn.Flatten(1), nn.Linear(features, 2, bias=False))
    model[2].weight.data.mul_(scale)
    return model.eval()


def slopes(model):
    """Return ∂f/∂h of the probability f of either class at even odds, up to its sign."""
    return (model[2].weight[0] - model[2].weight[1]) / 4


def test_it_is_exact_for_dropout_before_a_last_linear_layer(generator):
    model = nearly_linear(nn.Dropout(0.3), 8)
    h = torch.randn(5, 8, generator=generator)
    exact = ((h * slopes(model)) ** 2).sum(dim=1).mul(0.3 / 0.7).sqrt().double()
    spread = delta_rule(model, h)
    assert spread.dtype == torch.float64
    assert not spread.requires_grad
    torch.testing.assert_close(spread, exact.detach(), rtol=1e-5, atol=0)
    sampled = MCDropout(passes=8000)(model, h, generator=generator)["std"]
    torch.testing.assert_close(spread, sampled, rtol=tolerances.deviation(8000), atol=0)


def test_the_unit_of_channel_dropout_is_the_channel(generator):
    model = nearly_linear(nn.Dropout2d(0.4), 3 * 4)
    h = torch.randn(5, 3, 2, 2, generator=generator)
    channels = (h.flatten(1) * slopes(model)).view(5, 3, 4).sum(dim=2)
    exact = (channels**2).sum(dim=1).mul(0.4 / 0.6).sqrt().double()
    torch.testing.assert_close(delta_rule(model, h), exact.detach(), rtol=1e-5, atol=0)
    sampled = MCDropout(passes=8000)(model, h, generator=generator)["std"]
    torch.testing.assert_close(delta_rule(model, h), sampled, rtol=tolerances.deviation(8000), atol=0)


@pytest.mark.parametrize(("likelihood", "outputs"), [("binary", 1), ("regression", 1), ("regression", 2)])
def test_it_is_exact_for_logits_and_predictions_linear_in_the_dropped_units(likelihood, outputs, generator):
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, outputs))
    x = torch.randn(5, 3, generator=generator)
    hidden = model[1](model[0](x))
    exact = hidden.square() @ model[3].weight.square().T * 0.3 / 0.7
    torch.testing.assert_close(delta_rule(model, x, likelihood=likelihood).float(), exact.mean(dim=1).sqrt())


def test_variances_of_several_sites_add_up(generator):
    model = nn.Sequential(nn.Dropout(0.1), nn.Linear(4, 6), nn.ReLU(), nn.Dropout(0.2), nn.Linear(6, 3)).eval()
    x = torch.randn(5, 4, generator=generator)
    parts = [delta_rule(model, x, at=name) ** 2 for name in ("0", "3")]
    torch.testing.assert_close(delta_rule(model, x) ** 2, sum(parts), rtol=1e-4, atol=1e-9)
    ratio = delta_rule(model, x, rate=0.5) ** 2 / (parts[0] * 9 + parts[1] * 4)
    torch.testing.assert_close(ratio, torch.ones_like(ratio), rtol=1e-4, atol=0)


def test_rows_do_not_depend_on_their_batch():
    model = convnet(4, widths=(3, 5), dropout=0.2).eval()
    x = torch.rand(6, 1, 8, 8)
    together = delta_rule(model, x)
    torch.testing.assert_close(together, torch.cat([delta_rule(model, part) for part in x.split(1)]))


def test_modes_gradients_and_hooks_do_not_change():
    model = convnet(4, widths=(3, 5), dropout=0.2).train()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    delta_rule(model, torch.rand(6, 1, 8, 8))
    assert all(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(before[name], buffer) for name, buffer in model.named_buffers())
    assert not any(module._forward_hooks for module in model.modules())


def test_an_output_that_depends_on_no_dropped_unit_is_an_error():
    model = convnet(4, widths=(3, 5), dropout=0.2)
    with pytest.raises(ValueError, match=r"depends on the output of \['exits.0.features.dropout'\], got one"):
        delta_rule(model, torch.rand(2, 1, 8, 8), at="exits.0.features.dropout")


def test_a_rate_out_of_range_a_model_without_dropout_and_a_wrong_name_are_refused():
    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"rate in \(0, 1\), got 1.5"):
        delta_rule(nn.Linear(3, 4), x, rate=1.5)
    with pytest.raises(ValueError, match="drops units at a rate above 0 in training mode, found nothing"):
        delta_rule(nn.Linear(3, 4), x)
    with pytest.raises(ValueError, match="got 'drop', which matches no module; nearest"):
        delta_rule(nn.Sequential(nn.Dropout(), nn.Linear(3, 4)), x, at="drop")


def test_a_module_that_folds_steps_into_the_batch_is_refused():
    class TimeMajor(nn.Module):
        def __init__(self):
            super().__init__()
            self.drop, self.head = nn.Dropout(0.5), nn.Linear(3, 4)

        def forward(self, x):
            steps = self.drop(torch.cat([x, 2 * x]))
            return self.head(steps[: len(x)] + steps[len(x) :])

    with pytest.raises(ValueError, match="one row of units for each of 5 examples, got 10"):
        delta_rule(TimeMajor(), torch.rand(5, 3))


def test_inputs_that_are_not_finite_are_refused():
    model = nn.Sequential(nn.Dropout(), nn.Linear(3, 4))
    with pytest.raises(ValueError, match="finite outputs, got NaN or infinity at position 1"):
        delta_rule(model, torch.tensor([[0.0] * 3, [float("nan")] * 3]))


@anywhere
def test_the_modes_of_the_caller_change_nothing(surrounding):
    model, h = nearly_linear(nn.Dropout(0.3), 8), torch.randn(5, 8)
    expected = delta_rule(model, h)
    with surrounding():
        spread = delta_rule(model, h)
    assert torch.equal(spread, expected)
    assert not spread.is_inference()


def test_several_labels_have_the_spread_of_their_probabilities():
    """Var[σ(f_c)] is to first order (σ(1 − σ))² Var[f_c], and the result is the root of the mean over labels."""
    model, h = nn.Sequential(nn.Dropout(0.3), nn.Linear(8, 3)).eval(), torch.randn(5, 8)
    slope = model[1](h).sigmoid() * (1 - model[1](h).sigmoid())
    variance = h.double().square() @ model[1].weight.double().square().T * 0.3 / 0.7
    expected = (slope.double().square() * variance).mean(dim=1).sqrt()
    torch.testing.assert_close(delta_rule(model, h, likelihood="multilabel"), expected.detach(), rtol=1e-5, atol=0)
