import torch
from torch import nn

from suffice.network import fingerprint
from suffice.seal import Seal

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
