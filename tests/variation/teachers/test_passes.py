import pytest
import torch
from torch import nn

from suffice.variation.teachers.dropout import MCDropout
from tests.variation.teachers.models import DataDependent, inputs, record_rows, tower


@pytest.mark.parametrize("passes", [3, 50])
def test_mapped_passes_match_a_repeated_batch(passes):
    model, x = tower(), inputs(7)
    for memory in (1 << 25, 4000):
        mapped = MCDropout(passes=passes, memory=memory)(model, x, generator=torch.Generator().manual_seed(0))
        data_dependent = DataDependent(model)
        rows = record_rows(data_dependent)
        repeated = MCDropout(passes=passes, memory=memory)(
            data_dependent, x, generator=torch.Generator().manual_seed(0)
        )
        torch.testing.assert_close(mapped["std"], repeated["std"], rtol=1e-5, atol=1e-9)
    assert max(rows) < 7 * passes


def test_everything_before_the_first_dropout_runs_once_per_row(generator):
    model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(), nn.Linear(8, 4))
    rows = record_rows(model[0])
    MCDropout(passes=50)(model, inputs(6), generator=generator)
    assert rows == [2, 2, 2, 6]  # in training mode, in evaluation mode, for the plan, and the batch


@pytest.mark.parametrize("larger", [True, False])
def test_units_that_differ_from_pass_to_pass_are_refused(larger, generator):
    class Fickle(nn.Module):
        def __init__(self):
            super().__init__()
            self.tower, self.again = tower(), nn.Dropout(0.5)

        def forward(self, x):
            logits = self.again(self.tower(x))
            return self.again(logits) if (len(x) > 6) == larger else logits

    with pytest.raises(ValueError, match=r"same units to be dropped in every pass, got other ones"):
        MCDropout(passes=4)(DataDependent(Fickle()), inputs(6), generator=generator)
