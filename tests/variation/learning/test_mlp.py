import torch

from suffice.variation.learning import mlp
from tests import tolerances
from tests.variation.fits import seeded


def test_initial_weights_keep_the_scale_of_the_inputs_and_outputs_start_near_zero():
    """He et al. 2015: matrices of variance 2/D compensate for the half that a ReLU sets to zero."""
    width, generator = 1000, torch.Generator().manual_seed(0)
    first, _, second, _, last, _ = mlp.initial(10, (width, width), 1, torch.device("cpu"), generator)
    deviations = [float(matrix.std()) for matrix in (first, second, last)]
    expected = [(2 / 10) ** 0.5, (2 / width) ** 0.5, 0.1 * (2 / width) ** 0.5]
    for actual, right, matrix in zip(deviations, expected, (first, second, last), strict=True):
        assert abs(actual / right - 1) < tolerances.deviation(matrix.numel())


def test_fitting_stops_ten_epochs_after_the_best_and_keeps_the_best():
    x, y = torch.randn(400, 4, generator=seeded()), torch.rand(400, generator=seeded())

    def small(epochs):
        generator = seeded()
        weights = mlp.initial(4, (16,), 1, x.device, generator)
        parts = (x[:300], y[:300]), (x[300:], y[300:])
        return mlp.train(weights, *parts, mlp.qlike, epochs, generator)[0], generator.get_state()

    weights, state = small(2000)
    stops = next(epochs for epochs in range(1, 200) if torch.equal(small(epochs)[1], state))
    best = next(epochs for epochs in range(1, 200) if torch.equal(small(epochs)[0], weights))
    assert stops == best + 10
