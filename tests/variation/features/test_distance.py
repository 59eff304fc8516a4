import pytest
import torch
from torch import nn

from suffice import metrics
from suffice.data.sources import digits
from suffice.storage.parts import Parts
from suffice.variation.features.distance import Distance
from suffice.variation.fitting import fit_variation
from suffice.variation.teachers.dropout import MCDropout
from tests import tolerances


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
    torch.testing.assert_close(fitted(other) * fitted.limit, expected.float(), rtol=1e-3, atol=0)


def test_the_rows_of_fitting_are_at_a_distance_of_about_one():
    train = scores(4000, noise=0.3)
    for fitted, error in ((Distance.fit(train), 0.01), (Distance.isotropic(train), 0.05)):
        assert float((fitted(train) * fitted.limit).square().mean()) == pytest.approx(1, abs=error)


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
    assert (fitted(shuffled) > 1).double().mean() > 0.99
    assert (norm(shuffled) > 1).double().mean() < 0.05


def test_one_percent_of_rows_like_those_of_fitting_are_outside():
    """Up to five standard deviations of the share among the 4,000 rows that the limit is from, and among 20,000."""
    fitted = Distance.fit(scores(8000), scores(4000, seed=1))
    error = 5 * (0.01 / 4000 + 0.01 / 20_000) ** 0.5
    assert float((fitted(scores(20_000, seed=2)) > 1).double().mean()) == pytest.approx(0.01, abs=error)


def test_an_outlying_row_of_fitting_does_not_hide_others():
    train = scores(4000)
    train[0] = 1e4
    assert bool((Distance.fit(train)(30 * torch.ones(1, 50)) > 1).all())


def test_an_outlying_row_among_few_others_does_not_hide_others():
    others = scores(50, seed=1)
    others[0] *= 1000
    assert bool((Distance.fit(scores(2000), others)(30 * torch.ones(1, 50)) > 1).all())
    assert bool((Distance.fit(others)(30 * torch.ones(1, 50)) > 1).all())


def test_more_features_than_rows_have_a_distance_too():
    train, other = scores(300, width=1500), scores(300, width=1500, seed=1)
    fitted = Distance.fit(train, other)
    assert fitted.directions.shape == (1500, 30)  # one for ten rows
    assert int((fitted(other) > 1).sum()) <= 0.01 * len(other)
    assert bool((fitted(torch.randn(20, 1500, generator=seeded(3))) > 1).all())
    expected = dense(fitted, fitted.rest, other.double(), train.clamp(-4, 4).double())
    torch.testing.assert_close(fitted(other) * fitted.limit, expected.float(), rtol=1e-3, atol=0)


def test_directions_longer_than_any_that_is_fitted_are_refused():
    configuration, tensors = Distance.fit(scores(500)).parts()
    named = {"distance.directions": 1e3 * tensors["directions"]}
    with pytest.raises(ValueError, match=r"distance\.directions to be finite and at least -10"):
        Distance.from_parts(Parts(configuration, named), 50)


@pytest.mark.parametrize("value", [torch.inf, torch.nan, 1e30])
def test_no_overflow_is_near(value):
    assert not (Distance.fit(scores(500))(torch.full((1, 50), value)) <= 1).any()


def test_one_feature_has_its_absolute_score():
    fitted = Distance.fit(torch.randn(2000, 1, generator=seeded()))
    assert fitted.directions.shape == (1, 0)
    z = torch.tensor([[-2.0], [3.0]])
    torch.testing.assert_close(fitted(z) * fitted.limit, z[:, 0].abs() / fitted.rest**0.5)


def test_parts_give_the_same_distance_back_and_older_ones_the_root_mean_square():
    rows = scores(500)
    for fitted in (Distance.fit(rows), Distance.isotropic(rows)):
        configuration, tensors = fitted.parts()
        named = {f"distance.{name}": tensor for name, tensor in tensors.items()}
        assert torch.equal(Distance.from_parts(Parts(configuration, named), 50)(rows), fitted(rows))
    torch.set_default_dtype(torch.float64)
    try:
        older = Distance.from_parts(Parts({"limit": 2.5}, {}), 50)
    finally:
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(older(rows) * 2.5, rows.square().mean(dim=1).sqrt())
    assert older.limit == 2.5


def test_noise_is_told_from_digits():
    """Judged on a small trained network, by the area under the ROC curve and by the share that is outside."""
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
    distances = {name: estimator.estimate(x).distance for name, x in inputs.items()}
    labels = torch.arange(600) >= 300
    for name in ("uniform", "binary", "negative"):
        assert float(metrics.auroc(torch.cat([distances["digits"], distances[name]]), labels)) > 0.95
        assert (distances[name] > 1).double().mean() > 0.4
    assert (distances["digits"] > 1).double().mean() < 0.03


def test_blank_images_are_outside_where_all_activations_of_a_convolutional_network_are_read():
    """They are far, at every gray level; experiments/blank.py has networks and layers where they are not."""
    data = digits.load(0, validation=300, test=300)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU()),
            *(nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.5), nn.Linear(128, 10)),
        )
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        for x, y in [batch for _ in range(6) for batch in data.train.batches(128)]:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    loaders = data.train.batches(512), data.validation.batches()
    estimator = fit_variation(model, *loaders, teacher=MCDropout(passes=4), epochs=3, generator=seeded())
    blank = torch.linspace(0, 1, 11)[:, None, None, None].expand(-1, 1, 8, 8)
    assert bool(estimator.estimate(blank).outside.all())
    # The limit is from about 1,200 rows, or 150 of validation.
    error = tolerances.share(0.01, 150) + tolerances.share(0.01, 300)
    assert float(estimator.estimate(data.test.images).outside.double().mean()) < 0.01 + error


@pytest.mark.parametrize("size", [1e20, 3e38, float("inf")])
def test_scores_too_large_to_square_are_far_away_at_a_finite_distance(size):
    distance = Distance.fit(torch.randn(500, 4, generator=torch.Generator().manual_seed(0)))
    far = distance(torch.tensor([[size, 0, 0, 0], [-size, size, 0, 0]]))
    assert bool(far.isfinite().all())
    assert float(far.min()) > 1e12
