import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from suffice.models import convnet
from suffice.twin.hooks import hooked, matching
from suffice.variation.features.reader import output_features
from suffice.variation.features.scaling import Scaling
from suffice.variation.features.strengths import capture, layer_names


class Reused(nn.Module):
    """Model whose activation module runs twice, followed by an operation that overwrites its output."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 4)
        self.relu = nn.ReLU()

    def forward(self, x):
        hidden = self.relu(self.first(x))
        return self.relu(self.second(hidden)).mul_(-1)


class Pair(nn.Module):
    def forward(self, x):
        return x, x


def strengths_of(*shape, kind="value"):
    """Return the strengths of a layer that returns random values of a shape, and the values."""
    values = torch.randn(shape)
    model = nn.Sequential(nn.Identity(), nn.Flatten(1))
    return capture(model, values, ["0"], kind)[1]["0"], values


def test_strengths_of_a_dense_layer_are_its_values():
    strengths, values = strengths_of(5, 7)
    assert torch.equal(strengths, values)


def test_strengths_of_channels_are_their_mean_and_maximum_over_positions():
    strengths, values = strengths_of(5, 3, 4, 2)
    torch.testing.assert_close(strengths[:, :3], values.mean(dim=(2, 3)))
    assert torch.equal(strengths[:, 3:], values.amax(dim=(2, 3)))


def test_strengths_of_tokens_are_the_mean_and_maximum_over_tokens():
    strengths, values = strengths_of(5, 6, 3)
    torch.testing.assert_close(strengths[:, :3], values.mean(dim=1))
    assert torch.equal(strengths[:, 3:], values.amax(dim=1))


def test_on_off_strengths_are_whether_values_are_above_zero():
    for shape, positions in (((5, 7), None), ((5, 6, 3), 1), ((5, 3, 4, 2), (2, 3))):
        strengths, values = strengths_of(*shape, kind="on")
        on = (values > 0).float()
        torch.testing.assert_close(strengths, on if positions is None else on.mean(dim=positions))
        both, values = strengths_of(*shape, kind="both")
        assert both.shape[1] == strengths.shape[1] * (2 if positions is None else 3)


def test_capturing_does_not_change_the_output_modes_and_hooks():
    model = convnet(4, widths=(3, 5), dropout=0.3)
    model.stages[0].eval()
    modes = [module.training for module in model.modules()]
    x = torch.rand(6, 1, 8, 8)
    output, strengths = capture(model, x, layer_names(model, x, None))
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_hooks for module in model.modules())
    model.eval()
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(output, model(x), strict=True))
    assert [part.shape[1] for part in strengths.values()] == [6, 6, 10, 10, 64, 64]
    assert not any(part.requires_grad for part in strengths.values())


def test_a_layer_that_runs_twice_has_two_sets_of_strengths_read_before_they_are_overwritten():
    model = Reused()
    x = torch.randn(5, 3)
    output, strengths = capture(model, x, ["relu"])
    strengths = strengths["relu"]
    hidden = model.first(x).relu()
    torch.testing.assert_close(strengths[:, :4], hidden)
    torch.testing.assert_close(strengths[:, 4:], -output)
    assert strengths.min() >= 0


def test_no_layers_give_no_strengths():
    assert capture(nn.Linear(3, 4), torch.zeros(5, 3), [])[1] == {}


def test_every_activation_is_read_unless_layers_are_named():
    model, x = nn.Sequential(nn.Linear(2, 2), nn.GELU(), nn.Tanh(), nn.Softmax(dim=1)), torch.zeros(1, 2)
    assert layer_names(model, x, None) == ("1", "2")
    assert layer_names(model, x, "[0-1]") == ("0", "1")
    assert layer_names(model, x, ["3", "0"]) == ("0", "3")
    assert layer_names(model, x, []) == ()
    assert layer_names(model, x, "all") == ("1", "2")
    assert layer_names(model, x, "last") == ("2",)


def test_a_module_with_two_names_is_matched_once():
    model = nn.ModuleDict({"a": nn.ReLU()})
    model["b"] = model["a"]
    assert list(matching(model, "*")) == ["a"]
    assert list(matching(model, "b")) == ["b"]


def test_a_model_without_activations_is_refused():
    with pytest.raises(ValueError, match=r"expected a model with activations .*found none; .* pass layers=\[\]"):
        layer_names(nn.Linear(2, 2), torch.zeros(1, 2), None)


@pytest.mark.parametrize("part", ["", "0"])
def test_a_model_whose_activations_are_compiled_is_refused_by_the_compiled_part(part):
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), nn.Linear(2, 2)).eval()
    model.get_submodule(part).compile(backend="eager")
    with pytest.raises(ValueError, match=f"got '{part or 'the model'}', which is compiled or scripted"):
        layer_names(model, torch.zeros(1, 2), None)


def test_a_name_that_matches_nothing_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"got 'frist', which matches no module; nearest: \['first'"):
        layer_names(Reused(), torch.zeros(2, 3), ["relu", "frist"])


def test_a_layer_that_does_not_run_is_an_error_and_leaves_no_hook():
    model = Reused()
    model.unused = nn.ReLU()
    with pytest.raises(RuntimeError, match=r"but \['unused'\] did not"):
        capture(model, torch.zeros(2, 3), ["relu", "unused"])
    assert not any(module._forward_hooks for module in model.modules())


def test_a_layer_whose_output_is_no_tensor_is_refused_and_leaves_no_hook():
    model = nn.Sequential(Pair())
    with pytest.raises(TypeError, match="expected a tensor from module '0', got tuple"):
        capture(model, torch.zeros(2, 3), ["0"])
    assert not model[0]._forward_hooks


@pytest.mark.parametrize("mix", [nn.Unflatten(0, (3, 4)), nn.Identity()], ids=["rows", "vector"])
def test_a_layer_without_the_examples_first_is_refused(mix):
    model = nn.Sequential(nn.Flatten(0), mix)
    with pytest.raises(ValueError, match="expected an output of layer '1' with the 2 examples first"):
        capture(model, torch.zeros(2, 6), ["1"])


def test_hooks_are_removed_when_the_body_fails():
    model = Reused()
    with pytest.raises(ZeroDivisionError), hooked({"relu": model.relu}, lambda _name, _output: None):
        raise ZeroDivisionError
    assert not model.relu._forward_hooks


def test_strengths_that_are_hardly_active_or_constant_are_left_out_and_the_output_is_not(generator):
    features = torch.randn(1000, 5, generator=generator)
    features[:, 0] *= torch.arange(1000) < 5
    features[:, 2] *= torch.arange(1000) < 9
    features[:, 3] = 7.1
    scaling = Scaling.fit(features, outputs=2)
    assert scaling.columns.tolist() == [0, 1, 4]
    assert scaling.weight.tolist() == pytest.approx([1, 1, 0.5 * 2**0.5])


def test_inputs_are_standard_scores_clipped_at_four(generator):
    features = torch.randn(1000, 2, generator=generator) * 3 + 5
    scaling = Scaling.fit(features, outputs=2)
    inputs = scaling.apply(features).inputs
    torch.testing.assert_close(inputs.mean(dim=0), torch.zeros(2), rtol=0, atol=1e-5)
    torch.testing.assert_close(inputs.std(dim=0), torch.ones(2), rtol=0, atol=1e-2)
    far = torch.tensor([[1e9, 5.0]])
    scaled = scaling.apply(far)
    assert scaled.inputs[0, 0] == 4
    assert scaled.clipped.tolist() == [0.5]
    assert scaled.scores[0, 0] > 1e8
    assert scaling.apply(features).clipped.max() == 0


@given(st.integers(2, 8), st.floats(-1e3, 1e3), st.floats(1e-3, 300))
@settings(deadline=None, max_examples=30)
def test_output_features_are_finite_and_invariant_to_a_shift_of_the_logits(classes, shift, scale):
    logits = torch.randn(4, classes, generator=torch.Generator().manual_seed(0)) * scale
    features = output_features(logits, "classification")
    assert features.shape == (4, classes + min(classes, 5) + 3)
    assert features.isfinite().all()
    torch.testing.assert_close(output_features(logits + shift, "classification"), features, rtol=1e-3, atol=1e-2)
