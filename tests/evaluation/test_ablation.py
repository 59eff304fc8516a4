import copy

import pytest
import torch

import suffice
from suffice import evaluation


def test_the_ablation_has_the_rows_of_every_table():
    assert list(evaluation.ABLATION) == [
        "vanilla",
        "temperature",
        "ensemble",
        "ensemble + temperature",
        "Laplace",
        "Laplace + temperature",
        "all",
    ]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a second device")
def test_a_network_on_another_device_is_measured_like_one_on_the_cpu(trained):
    calibrated, _, data = trained
    network = copy.deepcopy(calibrated.network).cuda()
    moved = suffice.calibrate(network, data.train.batches(), data.validation.batches(), structure=None)
    validation, test = (evaluation.predict(moved, part.batches(100)) for part in (data.validation, data.test))
    row = evaluation.summary(moved, validation, test, generator=torch.Generator().manual_seed(0))
    assert row["averaged"]["accuracy"] > 0.5
