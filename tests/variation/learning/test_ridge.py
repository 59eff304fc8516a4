import pytest
import torch
from sklearn.linear_model import Ridge

from suffice.variation.learning import mlp, ridge


def data(n=400, k=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, k, generator=generator)
    variance = (x @ torch.linspace(-0.5, 0.5, k) + 0.3).exp()
    noise = torch.randn(6, n, generator=generator).var(dim=0)
    return x, variance * noise, variance


def test_the_weights_are_those_of_scikit_learn():
    x, labels, _ = data()
    statistics = ridge.update(ridge.init(5), x, labels)
    matrix, bias = ridge.solve(statistics, penalty=0.1)
    expected = Ridge(alpha=0.1 * 400).fit(x.numpy(), labels.clamp_min(1e-2).log().numpy())
    assert matrix[0].tolist() == pytest.approx(expected.coef_.tolist(), rel=1e-4)
    assert float(bias) == pytest.approx(float(expected.intercept_), rel=1e-4)


def test_statistics_do_not_depend_on_how_rows_were_split_and_can_be_merged():
    x, labels, _ = data()
    whole = ridge.update(ridge.init(5), x, labels)
    parts = [ridge.update(ridge.init(5), *part) for part in zip(x.split(77), labels.split(77), strict=True)]
    merged = parts[0]
    for part in parts[1:]:
        merged = ridge.merge(merged, part)
    torch.testing.assert_close(merged.gram, whole.gram)
    torch.testing.assert_close(merged.moment, whole.moment)
    assert merged.count == whole.count == 400


def test_selected_inputs_are_solved_as_if_there_were_no_others():
    x, labels, _ = data()
    columns = torch.tensor([3, 0])
    few = ridge.solve(ridge.select(ridge.update(ridge.init(5), x, labels), columns), 0.1)
    alone = ridge.solve(ridge.update(ridge.init(2), x[:, columns], labels), 0.1)
    torch.testing.assert_close(few, alone)


def test_the_bias_of_the_logarithm_is_removed():
    x, labels, _ = data(4000)
    statistics = ridge.update(ridge.init(5), x, labels)
    fresh, fresh_labels, variance = data(4000, seed=1)
    weights = ridge.fit(statistics, (fresh, fresh_labels))
    ratio = mlp.variance(mlp.forward(weights, fresh)) / variance
    assert float(ratio.log().mean()) == pytest.approx(0, abs=0.03)
    assert float(ratio.log().std()) < 0.1


def test_a_large_penalty_is_chosen_if_inputs_are_not_informative():
    generator = torch.Generator().manual_seed(0)
    x, labels = torch.randn(40, 30, generator=generator), torch.rand(40, generator=generator)
    validation = torch.randn(4000, 30, generator=generator), torch.rand(4000, generator=generator)
    weights = ridge.fit(ridge.update(ridge.init(30), x, labels), validation)
    assert weights[0].abs().max() < 0.1


def test_rows_that_do_not_vary_count_as_the_floor():
    x, labels, _ = data()
    labels[::3] = 0
    zero = ridge.solve(ridge.update(ridge.init(5), x, labels), 0.1)
    floored = ridge.solve(ridge.update(ridge.init(5), x, labels.clamp_min(1e-2)), 0.1)
    torch.testing.assert_close(zero, floored, rtol=0, atol=0)
