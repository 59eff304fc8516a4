import pytest
import torch

from suffice.calibration.likelihoods import unit

LOGITS = torch.tensor([[0.0, 3.0, -3.0], [1.0, 1.0, 1.0], [2.0, 10.0, 0.0]])


def test_logits_of_usual_size_have_the_unit_1():
    assert unit.of_classes(LOGITS) == 1
    assert unit.of_questions(LOGITS[:, 1:2]) == 1


def test_the_unit_brings_logits_of_another_size_to_the_nearest_usual_one():
    size = 3.0  # distances from the mean of 3, 0 and 6
    assert unit.of_classes(1e3 * LOGITS) == pytest.approx(1e3 * size / 30)
    assert unit.of_classes(1e-3 * LOGITS) == pytest.approx(1e-3 * size / 0.3)
    assert unit.of_questions(torch.tensor([[-90.0], [60.0], [1.0]])) == 2


def test_the_unit_does_not_depend_on_a_common_summand_nor_on_one_extreme_example():
    assert unit.of_classes(LOGITS + 500) == 1
    assert unit.of_classes(torch.cat([LOGITS, 1e9 * LOGITS[:1]])) == 1


def test_logits_that_are_all_equal_have_the_unit_1():
    assert unit.of_classes(torch.ones(4, 3)) == 1
