import pytest
import torch

import suffice
from suffice import evaluation
from suffice.data.sources import digits
from suffice.training.loop import train


@pytest.fixture(scope="package")
def trained():
    """Return a calibrated network, its outcome on the validation data, and the data."""
    data = digits.load(seed=0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = suffice.models.convnet(num_classes=10, widths=(4, 8))
        train(network, data.train.batches(64), epochs=5)
    calibrated = suffice.calibrate(network, None, data.validation.batches(), structure=None)
    return calibrated, evaluation.predict(calibrated, data.validation.batches()), data


@pytest.fixture(scope="package")
def test_outcome(trained):
    calibrated, _, data = trained
    return evaluation.predict(calibrated, data.test.batches(100))
