import warnings

import pytest
import torch

from suffice.variation.buckets import fit_buckets
from suffice.variation.fitting import fit_variation
from suffice.variation.learning.repeats import keys_of, warn_if_repeated
from tests.variation.fits import TEACHER, rows, seeded, tower

REPEATED = r"expected validation rows that are no training rows, got {} of {} that are; .* pass other inputs"


def test_the_key_of_a_row_is_that_of_its_bytes_in_any_batch_and_nest():
    x, ids = torch.rand(6, 2, 3), torch.arange(6, dtype=torch.int32)
    nest = {"x": x, "ids": ids, "flag": True}
    keys = keys_of(nest)
    assert keys.dtype == torch.int64
    assert len(keys.unique()) == 6
    assert torch.equal(keys_of({"x": x[2:4], "ids": ids[2:4], "flag": True}), keys[2:4])
    assert not torch.equal(keys_of({"x": x, "ids": ids.flip(0), "flag": True}), keys)
    assert torch.equal(keys_of(x.mT.mT), keys_of(x))
    assert keys_of(x.bfloat16().bool()[:, 0, 0]).shape == (6,)


def test_inputs_of_few_values_may_repeat_by_chance(generator):
    """Tables of flags and of the numbers up to 1,000: a share of the new rows is among the others, as predicted."""
    for values in (4, 1000, 10_000):
        train, validation = (torch.randint(values, (n,), generator=generator) for n in (2000, 500))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warn_if_repeated(train, validation, 1)
    validation[:100] = train[:100]
    with pytest.warns(UserWarning, match="expected validation rows that are no training rows"):
        warn_if_repeated(train, validation, 1)


@pytest.mark.parametrize("options", [{}, {"method": "ridge"}])
def test_a_fit_warns_of_training_rows_for_validation(options):
    x, y = rows(64), rows(32, seed=1)

    def fit(val_loader, fit_something=fit_variation, **choices):
        fit_something(tower(), x.split(16), val_loader, teacher=TEACHER, epochs=1, generator=seeded(), **choices)

    with pytest.warns(UserWarning, match=REPEATED.format(64, 64)) as caught:
        fit(x.split(40), **options)
    assert [warning.filename for warning in caught] == [__file__]
    with pytest.warns(UserWarning, match=REPEATED.format(32, 64)):
        fit([torch.cat([y, x[:32]])], **options)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="expected validation rows")
        fit([torch.cat([y, x[:2]])], **options)  # a few may repeat


def test_buckets_warn_of_training_rows_for_validation():
    x = rows(64)
    with pytest.warns(UserWarning, match=REPEATED.format(64, 64)):
        fit_buckets(tower(), [x], x.split(20), teacher=TEACHER, epochs=1, generator=seeded())
