import pytest
import torch
from torch import nn

from suffice.twin import hooks


@pytest.fixture
def model():
    return nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2), nn.ReLU())


@pytest.mark.parametrize(("name", "named"), [("", "'the model'"), ("a.b", "'a.b'")])
def test_a_module_outside_a_twin_cannot_be_hooked(name, named):
    with pytest.raises(ValueError, match=f"whose modules run forward hooks, got {named}, which is compiled"):
        hooks.check_hookable({name: nn.Linear(2, 2)})


def test_modules_are_found_by_name_or_pattern_once_and_in_the_models_order(model):
    assert hooks.matching(model, ["3", "[01]", "1"]) == {"0": model[0], "1": model[1], "3": model[3]}
    assert list(hooks.by_name(model, ["3", "0"])) == ["3", "0"]
    assert list(hooks.by_name(model, ["3", "[01]"])) == ["0", "1", "3"]
    twice = nn.Sequential(model[1], model[0], model[1])
    assert list(hooks.matching(twice, "*")) == ["0", "1"]


def test_a_pattern_that_matches_nothing_is_refused_with_the_nearest_names(model):
    with pytest.raises(
        ValueError, match=r"patterns of modules, got '33', which matches no module; nearest: \['3', .*\]"
    ):
        hooks.matching(model, ["1", "33"])


def test_outputs_are_read_and_replaced_only_inside_the_block(model):
    x, seen = torch.randn(3, 2), {}
    with hooks.hooked({"1": model[1], "3": model[3]}, lambda name, output: seen.setdefault(name, output) * 0):
        assert torch.equal(model(x), torch.zeros(3, 2))
    assert torch.equal(seen["1"], model[:2](x))
    assert torch.equal(seen["3"], model[2:](torch.zeros(3, 2)))
    assert not any(module._forward_hooks for module in model)


def test_a_module_that_did_not_run_is_named(model):
    modules = {"1": model[1], "a": nn.ReLU()}
    with pytest.raises(RuntimeError, match=r"but \['a'\] did not"), hooks.hooked(modules, lambda *_: None):
        model(torch.randn(3, 2))
    assert not model[1]._forward_hooks


def test_a_module_without_a_tensor_output_is_refused_and_the_hooks_are_removed():
    pair = nn.LSTM(2, 2)
    refused = pytest.raises(TypeError, match="expected a tensor from module 'pair', got tuple")
    with refused, hooks.hooked({"pair": pair}, lambda *_: None):
        pair(torch.randn(3, 2))
    assert not pair._forward_hooks
