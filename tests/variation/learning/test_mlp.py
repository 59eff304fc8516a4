import torch

from suffice.variation.learning import mlp
from tests import tolerances


def test_initial_weights_keep_the_scale_of_the_inputs_and_outputs_start_near_zero():
    """He et al. 2015: matrices of variance 2/D compensate for the half that a ReLU sets to zero."""
    width, generator = 1000, torch.Generator().manual_seed(0)
    first, _, second, _, last, _ = mlp.initial(10, (width, width), 1, torch.device("cpu"), generator)
    deviations = [float(matrix.std()) for matrix in (first, second, last)]
    expected = [(2 / 10) ** 0.5, (2 / width) ** 0.5, 0.1 * (2 / width) ** 0.5]
    for actual, right, matrix in zip(deviations, expected, (first, second, last), strict=True):
        assert abs(actual / right - 1) < tolerances.deviation(matrix.numel())
