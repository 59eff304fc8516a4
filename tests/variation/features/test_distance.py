import pytest
import torch
from torch import nn

from suffice import metrics
from suffice.data.sources import digits
from suffice.storage.parts import Parts
from suffice.variation.features.distance import Distance
from suffice.variation.fitting import fit_variation
from suffice.variation.teachers.dropout import MCDropout


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def scores(n, width=50, factors=5, noise=0.1, seed=0):
    """Make scores of about unit variance that a few factors determine up to noise."""
    loadings = torch.randn(factors, width, generator=seeded(99))
    loadings = loadings / loadings.square().sum(dim=0).sqrt()
    generator = seeded(seed)
    plain = torch.randn(n, factors, generator=generator) @ loadings
    return (1 - noise**2) ** 0.5 * plain + noise * torch.randn(n, width, generator=generator)


def dense(fitted, rest, rows, clipped):
    """Compute the distance with the covariance written out: the leading eigenvalues, and their mean for the others."""
    values, vectors = torch.linalg.eigh(clipped.T @ clipped / len(clipped))
    rank = fitted.directions.shape[1]
    kept = values.clone()
    kept[: len(values) - rank] = rest
    kept[len(values) - rank :].clamp_(min=1e-2)
    inverse = vectors @ (1 / kept).diag() @ vectors.T
    return torch.einsum("nk,kl,nl->n", rows, inverse, rows).div(rows.shape[1]).sqrt()


def test_the_distance_is_that_of_the_covariance_written_out():
    train, other = scores(2000), 3 * scores(20, seed=1)
    fitted = Distance.fit(train)
    assert fitted.directions.shape == (50, 32)
    expected = dense(fitted, fitted.rest, other.double(), train.clamp(-4, 4).double())
    # ‖z‖²/λ_0 and what is subtracted from it agree in up to two digits, as λ_0 is at least 0.01.
    torch.testing.assert_close(fitted(other), expected.float(), rtol=1e-3, atol=0)


def test_the_rows_of_fitting_are_at_a_distance_of_about_one():
    train = scores(4000, noise=0.3)
    assert float(Distance.fit(train)(train).square().mean()) == pytest.approx(1, abs=0.01)
    assert float(Distance.isotropic(train)(train).square().mean()) == pytest.approx(1, abs=0.05)


def test_scores_that_disagree_are_far_though_each_of_them_is_ordinary():
    train, other = scores(4000), scores(500, seed=1)
    shuffled = torch.stack(
        [column[torch.randperm(500, generator=seeded(i))] for i, column in enumerate(other.T)], dim=1
    )
    fitted, norm = Distance.fit(train), Distance.isotropic(train)
    labels = torch.arange(1000) >= 500
    pair = torch.cat([other, shuffled])
    assert float(metrics.auroc(fitted(pair), labels)) > 0.999
    assert float(metrics.auroc(norm(pair), labels)) < 0.7
    assert fitted.outside(shuffled).double().mean() > 0.99
    assert not norm.outside(shuffled).any()


def test_rows_like_those_of_fitting_are_rarely_outside():
    """The limit is above the 0.999 quantile; of 20,000 rows, at most 20 are beyond that quantile up to chance."""
    fitted = Distance.fit(scores(8000), scores(4000, seed=1))
    assert int(fitted.outside(scores(20_000, seed=2)).sum()) < 20 + 5 * 20**0.5


def test_an_outlying_row_of_fitting_does_not_hide_others():
    train = scores(4000)
    train[0] = 1e4
    assert bool(Distance.fit(train).outside(30 * torch.ones(1, 50)).all())


def test_more_features_than_rows_have_a_distance_too():
    train, other = scores(300, width=1500), scores(300, width=1500, seed=1)
    fitted = Distance.fit(train, other)
    assert fitted.directions.shape == (1500, 32)
    assert not fitted.outside(other).any()
    assert bool(fitted.outside(torch.randn(20, 1500, generator=seeded(3))).all())
    expected = dense(fitted, fitted.rest, other.double(), train.clamp(-4, 4).double())
    torch.testing.assert_close(fitted(other), expected.float(), rtol=1e-3, atol=0)


@pytest.mark.parametrize("value", [torch.inf, torch.nan, 1e30])
def test_overflow_is_outside(value):
    fitted = Distance.fit(scores(500))
    assert fitted.outside(torch.full((1, 50), value)).all()


def test_one_feature_has_its_absolute_score():
    fitted = Distance.fit(torch.randn(2000, 1, generator=seeded()))
    assert fitted.directions.shape == (1, 0)
    z = torch.tensor([[-2.0], [3.0]])
    torch.testing.assert_close(fitted(z), z[:, 0].abs() / fitted.rest**0.5)


def test_parts_give_the_same_distance_back_and_older_ones_the_root_mean_square():
    rows = scores(500)
    for fitted in (Distance.fit(rows), Distance.isotropic(rows)):
        configuration, tensors = fitted.parts()
        named = {f"distance.{name}": tensor for name, tensor in tensors.items()}
        assert torch.equal(Distance.from_parts(Parts(configuration, named), 50)(rows), fitted(rows))
    older = Distance.from_parts(Parts({"limit": 2.5}, {}), 50)
    torch.testing.assert_close(older(rows), rows.square().mean(dim=1).sqrt())
    assert older.limit == 2.5


def test_noise_is_told_from_digits():
    """Judged on a small trained network; the root mean square of the scores is at chance on this pair."""
    data = digits.load(0, validation=300, test=300)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Dropout(0.2), nn.Linear(48, 10))
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        for x, y in [batch for _ in range(15) for batch in data.train.batches(128)]:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    loaders = data.train.batches(512), data.validation.batches()
    estimator = fit_variation(model, *loaders, teacher=MCDropout(passes=4), epochs=3, generator=seeded())
    inputs = {
        "digits": data.test.images,
        "uniform": torch.rand(300, 1, 8, 8, generator=seeded(1)),
        "binary": (torch.rand(300, 1, 8, 8, generator=seeded(2)) > 0.5).float(),
        "negative": 1 - data.test.images,
    }
    fitted = estimator.fitted_mlp
    read = {}
    for name, x in inputs.items():
        features = torch.cat(estimator.reader.read(model.eval(), x)[1], dim=1)
        read[name] = fitted.scaling.apply(features.detach()).scores
    labels = torch.arange(600) >= 300
    for name in ("uniform", "binary", "negative"):
        pair = torch.cat([read["digits"], read[name]])
        norm = float(metrics.auroc(pair.square().mean(dim=1), labels))
        assert float(metrics.auroc(fitted.distance(pair), labels)) > max(0.95, norm)
        assert estimator.estimate(inputs[name]).outside.double().mean() > 0.1
    assert estimator.estimate(inputs["digits"]).outside.double().mean() < 0.02
