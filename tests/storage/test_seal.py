"""A model that has changed since something was fitted for it is refused, at use and at loading."""

import copy

import pytest
import torch
from torch import nn

import suffice
from suffice.calibration import density
from suffice.storage.fingerprint import fingerprint
from suffice.storage.seal import Seal
from tests.robustness import entries, odd


def data_in_place(model):
    model[0].weight.data.mul_(1.5)


def numpy_view(model):
    model[0].weight.detach().numpy()[:] += 0.1


def other_memory(model):
    model[0].weight.data = model[0].weight.data + 0.1


def no_grad(model):
    with torch.no_grad():
        model[0].weight[3, 2] += 1


def other_weights(model):
    model.load_state_dict({name: value + 0.1 for name, value in model.state_dict().items()})


def other_parameter(model):
    model[0].weight = nn.Parameter(model[0].weight + 0.1)


def other_activation(model):
    model[1] = nn.Tanh()


def other_class(model):
    model[1].__class__ = nn.Tanh


def other_rate(model):
    model[3].p = 0.9


EDITS = [data_in_place, numpy_view, other_memory, no_grad, other_weights, other_parameter]
SAME_WEIGHTS = [other_activation, other_class, other_rate]
"""Edits that leave the weights unchanged."""

FITTED = {
    "calibrated": entries.calibrated,
    "estimator": entries.estimator,
    "buckets": entries.buckets,
    "density": lambda model: density.fit(model, entries.labeled()),
}


@pytest.mark.parametrize("kind", FITTED)
@pytest.mark.parametrize("edit", [*EDITS, *SAME_WEIGHTS], ids=lambda edit: edit.__name__)
def test_a_model_that_was_changed_is_refused_at_use(kind, edit):
    model, x = odd.build("sequential"), entries.inputs(seed=2)
    fitted = FITTED[kind](model)
    fitted(x)
    edit(model)
    with pytest.raises(ValueError, match=r"weights have the hash|the weights are the same, but"):
        fitted(x)


@pytest.mark.parametrize("kind", FITTED)
@pytest.mark.parametrize("edit", [no_grad, *SAME_WEIGHTS], ids=lambda edit: edit.__name__)
def test_another_model_is_refused_at_loading(kind, edit, tmp_path):
    model = odd.build("sequential")
    suffice.save(FITTED[kind](model), tmp_path / "kind")
    other = copy.deepcopy(model)
    assert suffice.load(tmp_path / "kind", network=other)
    edit(other)
    with pytest.raises(ValueError, match=r"weights have the hash|the weights are the same, but"):
        suffice.load(tmp_path / "kind", network=other)


@pytest.mark.filterwarnings("ignore:.* inputs are outside")
@pytest.mark.parametrize("kind", FITTED)
def test_changes_that_bypass_the_version_counter_are_detected_at_saving(kind, tmp_path):
    model = odd.build("sequential")
    fitted = FITTED[kind](model)
    fitted(entries.inputs(seed=2))
    model[0].weight.data[1, 1:3] += 1
    fitted(entries.inputs(seed=2))  # no error: none of these elements is compared (docs/guide.md)
    for check in (fitted.check_weights, lambda: suffice.save(fitted, tmp_path / "kind")):
        with pytest.raises(ValueError, match="weights have the hash"):
            check()


@pytest.mark.parametrize("kind", FITTED)
@pytest.mark.parametrize("edit", SAME_WEIGHTS, ids=lambda edit: edit.__name__)
def test_nothing_is_saved_for_another_model_with_the_same_weights(kind, edit, tmp_path):
    model = odd.build("sequential")
    fitted = FITTED[kind](model)
    edit(model)
    with pytest.raises(ValueError, match="the weights are the same, but"):
        suffice.save(fitted, tmp_path / "kind")


def test_hooks_of_the_user_run_and_are_not_compared():
    model, x = odd.build("functional").eval(), entries.inputs(seed=2)
    fitted = entries.calibrated(model)
    before = fitted(x)[-1].probs
    handle = model.act.register_forward_hook(lambda module, args, output: 2 * output)
    assert not torch.equal(fitted(x)[-1].probs, before)
    handle.remove()
    assert torch.equal(fitted(x)[-1].probs, before)


def test_modes_gradients_and_requires_grad_are_not_compared():
    model, x = odd.build("sequential"), entries.inputs(seed=2)
    fitted = entries.calibrated(model)
    right = fitted(x)[-1].probs
    model.train().requires_grad_(False)
    model.requires_grad_(True)(x).sum().backward()
    assert torch.equal(fitted(x)[-1].probs, right)


X = torch.zeros(3, 2)


class Noisy(nn.Module):
    """Layer that adds random numbers from its own generator."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.generator = nn.Linear(2, 2), torch.Generator()

    def forward(self, x):
        return self.linear(x) + torch.rand(3, 2, generator=self.generator)


def sealed(model):
    return Seal(model, fingerprint(model), trusted=True)


def test_a_model_with_undetectable_changes_is_copied_at_every_use():
    model = Noisy()
    seal = sealed(model)
    for seed in (1, 2):
        model.generator.manual_seed(seed)
        with seal.twin() as twin:
            output = twin(X)
        assert model.generator.initial_seed() == seed
        torch.testing.assert_close(output, model(X))


def test_a_twin_of_a_model_with_detectable_changes_is_reused():
    model, used = nn.Linear(2, 2), []
    seal = sealed(model)
    for _ in range(2):
        with seal.twin() as twin:
            used.append(twin)
            assert torch.equal(twin(X), model(X))
    assert used[0] is used[1]
