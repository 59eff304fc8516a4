import pytest
import torch
from torch import nn

from suffice.variation.learning.rows import Rows, halves, make_reader
from suffice.variation.teachers.dropout import MCDropout


def rows(n):
    numbers = torch.arange(float(n))
    return Rows(numbers[:, None], (1,), numbers[:, None], 2)


@pytest.mark.parametrize("n", [4, 5, 100])
def test_held_out_rows_are_half_of_all_and_disjoint_from_the_stopping_rows(n):
    stopping, held_out = (half.labels[:, 0].tolist() for half in halves(rows(n)))
    assert sorted(stopping + held_out) == list(range(n))
    assert 0 <= len(stopping) - len(held_out) <= 1


def test_fewer_than_four_rows_cannot_be_halved():
    with pytest.raises(ValueError, match="at least 4 validation rows, got 3"):
        halves(rows(3))


@pytest.mark.parametrize(("at", "stored"), [(None, None), ("2", "2"), (["2"], ("2",))])
def test_the_delta_rule_reads_the_dropout_of_the_teacher(at, stored):
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 4))
    delta = make_reader(model, torch.zeros(2, 3), MCDropout(0.2, at=at), None, "value", True, "classification").delta
    assert (delta.at, delta.rate) == (stored, 0.2)
