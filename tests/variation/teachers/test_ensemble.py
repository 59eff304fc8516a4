import pytest
import torch
from torch import nn

from suffice.variation.teachers.ensemble import EnsembleTeacher
from tests import builders


def members(count, classes=4):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return [nn.Linear(3, classes) for _ in range(count)]


def test_an_ensemble_varies_as_its_members_differ():
    models, x = members(4), builders.inputs(5)
    variation = EnsembleTeacher(models[1:])(models[0], x)
    probs = torch.stack([model(x).double().softmax(dim=1) for model in models[1:]])
    top = models[0](x).argmax(dim=1)
    torch.testing.assert_close(variation["std"], probs.std(dim=0)[torch.arange(5), top].detach())
    torch.testing.assert_close(variation.mean, probs.mean(dim=0).detach())
    assert variation.passes == 3


def test_the_spread_of_regressions_is_in_the_units_of_the_prediction():
    models, x = members(3, classes=1), builders.inputs(5)
    expected = torch.stack([model(x) for model in models]).double().std(dim=0)[:, 0]
    torch.testing.assert_close(EnsembleTeacher(models, "regression")(models[0], x)["std"], expected.detach())


def test_an_ensemble_needs_two_members_for_the_same_task():
    with pytest.raises(ValueError, match="at least 2 models, got 1"):
        EnsembleTeacher(members(1))
    with pytest.raises(ValueError, match=r"output of shape \(5, 4\), as the model's, got \(5, 3\)"):
        EnsembleTeacher([*members(1), *members(1, classes=3)])(members(1)[0], builders.inputs(5))
