import pytest
import torch
from torch.nn.functional import cross_entropy

from suffice import losses


@pytest.fixture
def answers():
    generator = torch.Generator().manual_seed(0)
    logits = [torch.randn(6, 4, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(3)]
    return logits, torch.randint(4, (6,), generator=generator)


def test_summed_and_weighted_are_sums_of_cross_entropies(answers):
    logits, labels = answers
    each = [cross_entropy(exit_, labels) for exit_ in logits]
    torch.testing.assert_close(losses.summed(logits, labels), sum(each))
    weighted = losses.weighted([1.0, 0.5, 2.0])(logits, labels)
    torch.testing.assert_close(weighted, each[0] + 0.5 * each[1] + 2 * each[2])


def test_a_weight_for_each_exit_is_asked_for(answers):
    with pytest.raises(ValueError, match="a weight for each of 3 exits, got 2"):
        losses.weighted([1.0, 1.0])(*answers)


def test_distillation_adds_the_divergences_from_the_last_exit(answers):
    logits, labels = answers
    p = [(exit_ / 3).softmax(dim=1) for exit_ in logits]
    apart = [(p[2] * (p[2] / p[k]).log()).sum(dim=1).mean() for k in (0, 1)]
    expected = losses.summed(logits, labels) + 0.7 * 9 * (apart[0] + apart[1])
    torch.testing.assert_close(losses.distilled(0.7, 3.0)(logits, labels), expected)


def test_the_teacher_learns_nothing_from_its_students(answers):
    logits, labels = answers
    losses.distilled()(logits, labels).backward()
    taught = logits[2].grad.clone()
    logits[2].grad = None
    losses.summed(logits, labels).backward()
    torch.testing.assert_close(taught, logits[2].grad)


def test_a_single_exit_has_nobody_to_learn_from(answers):
    logits, labels = answers
    assert losses.distilled()(logits[:1], labels) == losses.summed(logits[:1], labels)
