import pytest
import torch
from torch import nn

from suffice.variation.baselines.delta_rule import delta_rule
from suffice.variation.fitting import fit_variation
from suffice.variation.teachers.dropout import MCDropout
from suffice.variation.teachers.ensemble import EnsembleTeacher
from suffice.variation.teachers.simplex import check_logits
from tests.variation.fits import TEACHER, fixed, rows, seeded, tower

PROBABILITIES = r"expected logits under likelihood='classification', got probabilities: .*; remove the softmax"


def softmaxed():
    return nn.Sequential(*tower(), nn.Softmax(dim=1))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_probabilities_in_any_type_are_refused(dtype, classes, generator):
    logits = 3 * torch.randn(64, classes, generator=generator).to(dtype)
    with pytest.raises(ValueError, match=PROBABILITIES):
        check_logits(logits.softmax(dim=1))
    check_logits(logits)
    check_logits(logits.log_softmax(dim=1))


def test_rows_that_may_be_logits_are_accepted(generator):
    probs = torch.rand(6, 3, generator=generator).softmax(dim=1)
    check_logits(probs[:1])  # one row may sum to 1
    check_logits(probs[:1].expand(50, 3))  # of a classifier whose weights are zero, also any number of times
    check_logits(probs[:5].bfloat16())  # too coarse for fewer than six rows
    check_logits(torch.zeros(50, 2))
    check_logits(torch.cat([probs, torch.ones(1, 3)]))
    check_logits(probs[:0])


@pytest.mark.parametrize("n", [1, 40])
def test_a_teacher_refuses_a_model_that_ends_with_a_softmax(n):
    with pytest.raises(ValueError, match=PROBABILITIES):
        MCDropout(passes=5)(softmaxed(), rows(n), generator=seeded())


def test_log_probabilities_have_the_spread_of_the_logits():
    logarithms, x = nn.Sequential(*tower(), nn.LogSoftmax(dim=1)), rows(9)
    expected = MCDropout(passes=5)(tower(), x, generator=seeded())["std"]
    torch.testing.assert_close(MCDropout(passes=5)(logarithms, x, generator=seeded())["std"], expected)


def test_probabilities_are_numbers_of_a_regression():
    spread = MCDropout(passes=5, likelihood="regression")(softmaxed(), rows(9), generator=seeded())["std"]
    assert (spread > 0).all()


def test_other_teachers_baselines_and_fits_refuse_it_too():
    model, x = softmaxed(), rows(40)
    with pytest.raises(ValueError, match=PROBABILITIES):
        EnsembleTeacher([tower(), softmaxed()])(tower(), x)
    with pytest.raises(ValueError, match=PROBABILITIES):
        delta_rule(model, x)
    for teacher in (TEACHER, fixed):  # the second never looks at the outputs
        with pytest.raises(ValueError, match=PROBABILITIES):
            fit_variation(model, [x], [rows(9, seed=1)], teacher=teacher, epochs=1, generator=seeded())
