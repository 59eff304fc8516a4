"""The checks of the gauntlet find what they look for: an answer that depends on companions, order or padding."""

from collections import OrderedDict

import pytest
import torch
from torch import nn

from suffice.network import call
from tests.gauntlet.families import BY_NAME
from tests.gauntlet.independence import Answers, Independence
from tests.gauntlet.outcomes import Job, WrongAnswerError
from tests.gauntlet.pipeline import Data, check_last_exit

FAMILY = BY_NAME["`nn.TransformerEncoder` with a padding mask"]


@pytest.fixture(scope="module")
def model():
    return FAMILY.model()


@pytest.fixture(scope="module")
def independence(model):
    return Independence(FAMILY, model, Data.of(FAMILY, model).tested)


@torch.no_grad()
def _probs(model, x):
    return call(model, x).softmax(dim=1)


def test_a_masked_model_depends_on_nothing_but_its_example(model, independence):
    assert independence.sensitive() == ()
    independence.check(lambda x: Answers(_probs(model, x)))


def test_a_model_without_a_mask_is_found_to_depend_on_padding():
    family = BY_NAME["LSTM and GRU, padded"]
    model = family.model()
    assert Independence(family, model, Data.of(family, model).tested).sensitive() == ("padding on the left",)


WRONG = {
    "a mean over padding": lambda probs, x: probs + 1e-3 * x["padded"].float().mean(dim=1, keepdim=True),
    "the size of the batch": lambda probs, x: probs + 1e-3 * (len(probs) > 1),
    "the place in the batch": lambda probs, x: probs + 1e-4 * torch.arange(len(probs))[:, None],
    "the length of the batch": lambda probs, x: probs + 1e-4 * x["tokens"].shape[1],
    "a mean over the batch": lambda probs, x: probs + 1e-2 * probs.mean(dim=0),
}


@pytest.mark.parametrize("what", WRONG)
def test_an_answer_that_depends_on_anything_else_is_a_fault(what, model, independence):
    with pytest.raises(WrongAnswerError, match="expected the same answer for example"):
        independence.check(lambda x: Answers(WRONG[what](_probs(model, x), x)))


def test_another_exit_in_company_is_a_fault_unless_the_score_is_at_its_threshold(model, independence):
    def answers(x, near):
        probs = _probs(model, x)
        return Answers(probs, torch.full((len(probs),), int(len(probs) > 1)), torch.full((len(probs),), near))

    with pytest.raises(WrongAnswerError, match="to stop at exit 0"):
        independence.check(lambda x: answers(x, near=False))
    independence.check(lambda x: answers(x, near=True))


def test_answers_that_cannot_show_a_dependence_are_no_evidence(model, independence):
    with pytest.raises(AssertionError, match="no dependence could be seen"):
        independence.check(lambda x: Answers(torch.full((len(x["tokens"]), 3), 1 / 3)))


def test_a_difference_in_the_last_bit_of_the_last_exit_is_a_fault():
    model, x = nn.Linear(3, 3), torch.randn(4, 3)
    nudged = lambda x: [model(x).nextafter(torch.tensor(torch.inf))]  # noqa: E731
    with pytest.raises(WrongAnswerError, match="bit for bit"):
        check_last_exit(nudged, model, {"four": x})
    check_last_exit(lambda x: [model(x)], model, {"four": x})


def _raise(error):
    raise error


@pytest.mark.parametrize(
    ("error", "result"),
    [
        (AssertionError("expected"), "fault"),
        (RuntimeError("expected a tensor, got none"), "fault"),
        (ValueError("expected a tensor, got none"), "fault"),  # not raised by the library
        (KeyError("expected"), "fault"),
    ],
)
def test_an_error_that_is_not_the_librarys_own_is_a_fault(error, result):
    with Job().running() as job, job.step("attach"):
        _raise(error)
    assert (job.outcome.result, job.outcome.step) == (result, "attach")


def test_an_error_of_the_library_is_a_refusal_with_its_reason_and_remedy_and_ends_the_job():
    import suffice

    reached = False
    with Job().running() as job:
        with job.step("attach"):
            model = nn.Sequential(OrderedDict(layer=nn.Linear(3, 3)))
            suffice.attach_exits(model, ["lyer"], example=torch.zeros(2, 3))
        reached = True
    assert not reached
    assert job.outcome.result == "refused"
    assert job.outcome.reason.startswith("expected names of modules, got 'lyer'")
    assert job.outcome.remedy.startswith("nearest")


def test_a_failed_check_does_not_end_a_job_and_a_fault_counts_more_than_a_refusal():
    import suffice

    with Job().running() as job:
        with job.check("first"):
            suffice.MCDropout(passes=1)
        with job.check("second"):
            _raise(WrongAnswerError("wrong"))
    assert (job.outcome.result, job.outcome.step, job.outcome.text) == ("fault", "second", "[second] wrong")
