import pytest
from torch import nn

from suffice.variation.teachers.dropout import MCDropout
from tests.variation.teachers.models import DataDependent, inputs, record_rows, tower


def test_an_operation_without_a_batching_rule_is_not_mapped(generator):
    """A loop would be as slow as single passes, and torch warns about it, which is an error here."""

    class Renormed(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = tower()

        def forward(self, x):
            return self.model(x).renorm(p=2, dim=0, maxnorm=1.0)

    assert MCDropout(passes=8)(Renormed(), inputs(7), generator=generator)["std"].shape == (7,)


def test_less_memory_means_smaller_parts_and_too_little_is_refused(generator):
    rows = []
    for memory in (20_000, 80_000, 320_000):
        data_dependent = DataDependent(tower())
        sizes = record_rows(data_dependent)
        MCDropout(passes=100, memory=memory)(data_dependent, inputs(50), generator=generator)
        rows.append(max(sizes))
    assert rows[0] * 2 < rows[1] < rows[2] / 2
    with pytest.raises(MemoryError, match=r"at most memory=50 bytes, got about \d+; pass a greater memory"):
        MCDropout(memory=50)(tower(), inputs(2))
