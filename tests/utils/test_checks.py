import pytest
import torch

from suffice.utils import checks


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.uint16, torch.uint64, torch.bool])
def test_labels_of_every_integer_type_become_int64(dtype):
    labels = checks.class_labels(torch.tensor([0, 1, 1]).to(dtype), 2)
    assert labels.dtype == torch.int64
    assert labels.tolist() == [0, 1, 1]


def test_labels_are_compared_in_a_type_that_holds_the_number_of_classes():
    bytes_ = torch.arange(256, dtype=torch.uint8)
    assert checks.class_labels(bytes_, 256).tolist() == list(range(256))
    assert checks.class_labels(torch.tensor([127], dtype=torch.int8), 1000).tolist() == [127]
    with pytest.raises(ValueError, match=r"expected labels in \[0, 200\), got 200 at position 7200"):
        checks.class_labels(bytes_, 200, start=7000)


def test_an_unsigned_label_beyond_int64_is_out_of_range():
    with pytest.raises(ValueError, match=r"expected labels in \[0, 3\), got .* at position 0"):
        checks.class_labels(torch.tensor([2**63 + 1], dtype=torch.uint64), 3)


def test_no_labels_are_in_range():
    assert checks.class_labels(torch.zeros(0, dtype=torch.uint8), 3).shape == (0,)


def test_bool_labels_are_those_of_two_classes_only():
    labels = torch.tensor([True, False])
    assert checks.class_labels(labels, 2).tolist() == [1, 0]
    with pytest.raises(ValueError, match=r"integer labels of 3 classes, got torch.bool from position 4, which"):
        checks.class_labels(labels, 3, 4)
