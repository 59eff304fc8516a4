"""A model that is no longer the one that something was learned about is refused, at use and at loading."""

import copy

import pytest
import torch
from torch import nn

import suffice
from suffice.calibration import density
from suffice.storage.fingerprint import fingerprint
from suffice.storage.seal import Seal
from tests import entries, odd


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
LIKE = [other_activation, other_class, other_rate]
"""The weights are the same."""

LEARNED = {
    "calibrated": entries.calibrated,
    "estimator": entries.estimator,
    "buckets": entries.buckets,
    "density": lambda model: density.fit(model, entries.labeled()),
}


@pytest.mark.parametrize("learned", LEARNED)
@pytest.mark.parametrize("edit", [*EDITS, *LIKE], ids=lambda edit: edit.__name__)
def test_a_model_that_was_changed_is_refused_at_use(learned, edit):
    model, x = odd.made("sequential"), entries.inputs(seed=2)
    answers = LEARNED[learned](model)
    answers(x)
    edit(model)
    with pytest.raises(ValueError, match=r"weights have the hash|the weights are the same, but"):
        answers(x)


@pytest.mark.parametrize("learned", LEARNED)
@pytest.mark.parametrize("edit", [no_grad, *LIKE], ids=lambda edit: edit.__name__)
def test_another_model_is_refused_at_loading(learned, edit, tmp_path):
    model = odd.made("sequential")
    suffice.save(LEARNED[learned](model), tmp_path / "learned")
    other = copy.deepcopy(model)
    assert suffice.load(tmp_path / "learned", network=other)
    edit(other)
    with pytest.raises(ValueError, match=r"weights have the hash|the weights are the same, but"):
        suffice.load(tmp_path / "learned", network=other)


@pytest.mark.filterwarnings("ignore:.* far outside")
@pytest.mark.parametrize("learned", LEARNED)
def test_some_elements_written_past_the_count_are_noticed_when_it_is_saved(learned, tmp_path):
    model = odd.made("sequential")
    answers = LEARNED[learned](model)
    answers(entries.inputs(seed=2))
    model[0].weight.data[1, 1:3] += 1
    answers(entries.inputs(seed=2))  # as docs/guide.md says: none of the elements that are compared
    for check in (answers.check_weights, lambda: suffice.save(answers, tmp_path / "learned")):
        with pytest.raises(ValueError, match="weights have the hash"):
            check()


@pytest.mark.parametrize("learned", LEARNED)
@pytest.mark.parametrize("edit", LIKE, ids=lambda edit: edit.__name__)
def test_another_model_behind_the_same_weights_is_not_saved_for(learned, edit, tmp_path):
    model = odd.made("sequential")
    answers = LEARNED[learned](model)
    edit(model)
    with pytest.raises(ValueError, match="the weights are the same, but"):
        suffice.save(answers, tmp_path / "learned")


def test_what_the_users_own_code_does_is_followed_and_not_compared():
    model, x = odd.made("functional").eval(), entries.inputs(seed=2)
    answers = entries.calibrated(model)
    before = answers(x)[-1].probs
    handle = model.act.register_forward_hook(lambda module, args, output: 2 * output)
    assert not torch.equal(answers(x)[-1].probs, before)
    handle.remove()
    assert torch.equal(answers(x)[-1].probs, before)


def test_modes_gradients_and_requires_grad_are_no_changes():
    model, x = odd.made("sequential"), entries.inputs(seed=2)
    answers = entries.calibrated(model)
    right = answers(x)[-1].probs
    model.train().requires_grad_(False)
    model.requires_grad_(True)(x).sum().backward()
    assert torch.equal(answers(x)[-1].probs, right)


X = torch.zeros(3, 2)


class Noisy(nn.Module):
    """Adds what its own generator draws."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.generator = nn.Linear(2, 2), torch.Generator()

    def forward(self, x):
        return self.linear(x) + torch.rand(3, 2, generator=self.generator)


def sealed(model):
    return Seal(model, fingerprint(model), [model], trusted=True)


def test_what_changes_without_a_sign_is_copied_anew_at_every_use():
    model = Noisy()
    seal = sealed(model)
    for seed in (1, 2):
        model.generator.manual_seed(seed)
        with seal.twin() as twin:
            found = twin(X)
        assert model.generator.initial_seed() == seed
        torch.testing.assert_close(found, model(X))


def test_a_twin_of_what_would_be_told_to_have_changed_is_used_again():
    model, used = nn.Linear(2, 2), []
    seal = sealed(model)
    for _ in range(2):
        with seal.twin() as twin:
            used.append(twin)
            assert torch.equal(twin(X), model(X))
    assert used[0] is used[1]
