import pytest
import torch
from torch import nn

from suffice import models
from suffice.network import Exit, ExitNetwork
from suffice.variation.baselines import moments
from suffice.variation.baselines.last_layer import last_layer
from suffice.variation.teachers.dropout import MCDropout
from tests import tolerances


def tower(outputs=1, rate=0.3, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        body = nn.Sequential(nn.Linear(6, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Dropout(rate), nn.Linear(20, 16))
        body[1].running_var += torch.rand(20)
        body[1].running_mean += torch.randn(20) / 4
        return nn.Sequential(body, nn.ReLU(), nn.Dropout(rate), nn.Linear(16, outputs)).eval()


def inputs(n=8):
    return torch.randn(n, 6, generator=torch.Generator().manual_seed(1))


def sampled(model, x, likelihood):
    teacher = MCDropout(passes=40_000, likelihood=likelihood)
    return teacher(model, x, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("likelihood", ["regression", "binary"])
def test_full_covariances_are_close_to_many_passes(likelihood):
    model, x = tower(), inputs()
    propagated = moments.propagate(model, x)
    truth = sampled(model, x, likelihood)
    full = (moments.spread(propagated, likelihood) / truth["std"] - 1).abs()
    diagonal = (moments.spread(moments.propagate(model, x, full=False), likelihood) / truth["std"] - 1).abs()
    assert full.max() < 0.08
    assert full.mean() < 0.03 < diagonal.mean()
    torch.testing.assert_close(propagated.mean, truth.mean, rtol=0, atol=0.02)


def test_the_spread_of_the_class_probability_is_first_order():
    model, x = tower(outputs=4), inputs()
    model[-1].weight.data *= 0.1
    truth = sampled(model, x, "classification")
    # 8 %: the stated error of the moments of ReLUs, whose inputs are not quite normal.
    torch.testing.assert_close(moments.spread(moments.propagate(model, x)), truth["std"], rtol=0.08, atol=0)
    diagonal = moments.propagate(model, x, full=False)
    assert moments.spread(diagonal).shape == (8,)


def test_variances_alone_are_the_full_ones_where_covariances_do_not_matter():
    """Up to the first ReLU after a dropout and a linear layer, variances do not depend on covariances."""
    model, x = tower()[0], inputs()
    full, diagonal = (moments.propagate(model, x, full=full) for full in (True, False))
    torch.testing.assert_close(full.variance, diagonal.dispersion)
    torch.testing.assert_close(full.mean, model(x).double(), rtol=1e-4, atol=1e-5)


def test_relu_moments_are_those_of_a_bivariate_normal():
    mean, covariance = torch.tensor([[0.3, -0.4]]).double(), torch.tensor([[[1.0, 0.45], [0.45, 0.5]]]).double()
    factor = torch.linalg.cholesky(covariance[0])
    values = torch.randn(2_000_000, 2, generator=torch.Generator().manual_seed(0)).double() @ factor.T + mean
    propagated = moments._relu(moments.PropagatedMoments(mean, covariance))
    positive = values.relu()
    off = tolerances.mean(1.0, len(values))  # relative to a deviation
    torch.testing.assert_close(
        propagated.mean[0], positive.mean(dim=0), rtol=0, atol=off * float(positive.std(dim=0).max())
    )
    centered = positive - positive.mean(dim=0)
    products = (centered[:, :, None] * centered[:, None]).std(dim=0)
    torch.testing.assert_close(propagated.dispersion[0], positive.T.cov(), rtol=0, atol=off * float(products.max()))


def test_covariances_of_values_dropped_last_are_diagonal():
    model, x = nn.Sequential(nn.Linear(6, 3), nn.Dropout(0.5)).eval(), inputs(2)
    expected = model(x).double().square().diag_embed()
    torch.testing.assert_close(moments.propagate(model, x).dispersion, expected, rtol=1e-5, atol=1e-6)


def test_rows_do_not_depend_on_how_memory_splits_them():
    model, x = tower(), inputs()
    whole, cut = moments.propagate(model, x), moments.propagate(model, x, memory=8 * 20 * 20 * 3)
    torch.testing.assert_close(whole.dispersion, cut.dispersion)


@pytest.mark.parametrize("rate", [None, 0.4])
def test_embeddings_are_dropped_and_the_numbers_beside_them_are_not(rate):
    """The moments are exact, since a single linear layer follows."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = models.tower([5, 7], numeric=3, embedding=6, dropout=0.0, embedding_dropout=0.2)
        embeddings = network.stages[0][0]
        nn.init.normal_(embeddings.table.weight)
        network = ExitNetwork([embeddings], [Exit(nn.Identity(), nn.Linear(15, 2))]).eval()
    x = {"categorical": torch.tensor([[0, 1], [4, 6]]), "numeric": torch.tensor([[1.0, -2, 0], [5, 5, 5]])}
    teacher, generator = MCDropout(rate=rate, passes=20_000, likelihood="regression"), torch.Generator().manual_seed(0)
    truth = teacher(network, x, generator=generator)
    for full in (True, False):
        propagated = moments.propagate(network, x, full=full, rate=rate)
        # A rate of 0.2 has the excess kurtosis (1 − 6ρ(1 − ρ)) / (ρ(1 − ρ)) = 0.25.
        off = tolerances.deviation(20_000, kurtosis=3.25)
        torch.testing.assert_close(propagated.variance[:, 0].sqrt(), truth["std_0"], rtol=off, atol=0)
    assert propagated.dispersion.shape == (2, 2)


def test_the_last_exit_of_a_network_of_towers_counts():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = models.tower([5, 7], hidden=(16, 8), exits_after=[1], dropout=0.3, embedding_dropout=0.0).eval()
    x = torch.tensor([[0, 1], [4, 6], [3, 3]])
    embedded = network.stages[0][0](x)
    plain = nn.Sequential(*network.stages[0][1:], network.stages[1], network.exit(1).classifier)
    propagated, expected = moments.propagate(network, x), moments.propagate(plain, embedded)
    torch.testing.assert_close(propagated.dispersion, expected.dispersion)
    torch.testing.assert_close(propagated.mean, expected.mean)
    rated = moments.propagate(network, x, rate=0.3)
    torch.testing.assert_close(rated.dispersion, propagated.dispersion)


def test_other_modules_and_towers_without_dropout_are_refused():
    with pytest.raises(TypeError, match=r"expected Linear, ReLU, Dropout, .* got Tanh"):
        moments.propagate(nn.Sequential(nn.Linear(6, 2), nn.Tanh()), inputs())
    with pytest.raises(ValueError, match="expected a tower with dropout of a rate above 0, got one without"):
        moments.propagate(nn.Sequential(nn.Linear(6, 2), nn.Dropout(0.0)), inputs())


def test_dropout_before_the_last_linear_layer_needs_no_passes():
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3)).eval()
    x = inputs()
    propagated = last_layer(model, x)
    h, weight = model[1](model[0](x)).double(), model[3].weight.double()
    exact = torch.einsum("cd,nd,ed->nce", weight, h**2 * 0.3 / 0.7, weight)
    torch.testing.assert_close(propagated.dispersion, exact.detach())
    torch.testing.assert_close(propagated.dispersion, moments.propagate(model, x).dispersion)
    torch.testing.assert_close(propagated.mean, model(x).detach().double())
    torch.testing.assert_close(last_layer(model, x, rate=0.5).dispersion, exact.detach() * 0.7 / 0.3)
    assert not model[3]._forward_pre_hooks


def test_dropout_elsewhere_has_no_exact_variance():
    with pytest.raises(ValueError, match="one dropout, on the inputs of the last linear layer, got 2 at"):
        last_layer(tower(outputs=2), inputs())
    early = nn.Sequential(nn.Linear(6, 16), nn.Dropout(0.3), nn.Linear(16, 16, bias=False), nn.Linear(16, 2)).eval()
    with pytest.raises(ValueError, match="got 1 at"):
        last_layer(early, inputs())
    positive = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 16), nn.Linear(16, 2)).eval()
    positive[3].weight.data.abs_()
    positive[3].bias.data.zero_()
    with pytest.raises(ValueError, match="got 1 at"):
        last_layer(positive, inputs())
    narrow = nn.Sequential(nn.Linear(6, 5), nn.Dropout(0.3), nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 2)).eval()
    with pytest.raises(ValueError, match="got 1 at"):
        last_layer(narrow, inputs())


def test_dropout_of_the_outputs_too_has_no_exact_variance():
    class Dropped(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden, self.head = nn.Sequential(nn.Linear(6, 16), nn.Dropout(0.3)), nn.Linear(16, 2)
            self.after = nn.Dropout(0.1)

        def forward(self, x):
            return self.after(self.head(self.hidden(x)))

    with pytest.raises(ValueError, match="one dropout, on the inputs of the last linear layer, got 2 at"):
        last_layer(Dropped().eval(), inputs())


def test_the_spread_of_several_labels_is_that_of_their_probabilities_to_first_order():
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3)).eval()
    propagated = last_layer(model, inputs())
    slope = propagated.mean.sigmoid() * (1 - propagated.mean.sigmoid())
    expected = (slope.square() * propagated.variance).mean(dim=1).sqrt()
    torch.testing.assert_close(moments.spread(propagated, "multilabel"), expected)
