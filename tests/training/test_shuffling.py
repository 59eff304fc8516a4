"""Training data that are not in random order are reported; others are not."""

import warnings

import pytest
import torch

import suffice
from suffice.training import SGDConfig, train
from suffice.training.shuffling import LabelOrder
from tests import builders

SORTED = "expected training data in random order, got {} that are alike within each batch"


def classes(count=480, number=4):
    return torch.arange(count) * number // count


def warned(labels, size, number=4, likelihood="classification"):
    network = builders.network(widths=(8,), classes=1 if likelihood == "regression" else number, scale=0.2)
    loader = builders.batched(builders.inputs(len(labels)), labels, size)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(network, loader, epochs=2, optimizer=SGDConfig(1e-3), likelihood=likelihood)
    return [str(warning.message) for warning in caught]


@pytest.mark.parametrize("size", [1, 2, 16, 60])
@pytest.mark.parametrize("number", [2, 4, 40])
def test_data_that_are_sorted_by_class_are_warned_of_once(size, number):
    (message,) = warned(classes(number=number), size, number)
    assert message.startswith(SORTED.format("labels"))


def test_batches_of_one_class_in_random_order_are_warned_of():
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    labels = classes().reshape(60, 8)[order].flatten()
    assert len(warned(labels, 8)) == 1


@pytest.mark.parametrize("size", [1, 2, 16, 60, 130, 480])
@pytest.mark.parametrize("number", [2, 4, 40])
@pytest.mark.parametrize("seed", range(3))
def test_shuffled_data_are_not_warned_of(size, number, seed):
    order = torch.randperm(480, generator=torch.Generator().manual_seed(seed))
    assert warned(classes(number=number)[order], size, number) == []


def test_targets_that_are_sorted_are_warned_of_and_others_are_not():
    values = torch.randn(480, generator=torch.Generator().manual_seed(0)) + 1e6
    (message,) = warned(values.sort().values, 32, likelihood="regression")
    assert message.startswith(SORTED.format("targets"))
    assert warned(values, 32, likelihood="regression") == []


def test_data_of_one_class_and_one_batch_have_no_order():
    assert warned(torch.zeros(480, dtype=torch.long), 16) == []
    assert warned(classes(), 480) == []


def test_the_correlation_is_that_of_the_analysis_of_variance():
    labels = torch.tensor([0, 0, 1, 2, 2, 2, 1, 1, 0, 2, 1, 0, 0, 0, 0, 0, 1, 1, 2, 0, 2, 2, 2, 1])
    order = LabelOrder(3)
    for window in labels.split(8):
        order.add(window)
    indicators = torch.nn.functional.one_hot(labels).double()
    within = sum((w - w.mean(0)).square().sum() for w in indicators.split(8)) / (24 - 3)
    assert order.correlation == pytest.approx(float(1 - within / indicators.var(dim=0).sum()), rel=1e-12)


def test_a_training_split_that_is_stored_by_class_is_trained_in_random_order():
    from suffice.data.splits.images import Images

    pixels = torch.rand(200, 1, 8, 8)
    split = Images(pixels, torch.arange(200) // 20, training=True)
    train(suffice.models.convnet(10, widths=(4,)), split.batches(20), epochs=1)  # warnings are errors
    with pytest.warns(UserWarning, match="random order"):
        train(suffice.models.convnet(10, widths=(4,)), split.batches(20, shuffle=False), epochs=1)
