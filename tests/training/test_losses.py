import pytest
import torch
from torch.distributions import Bernoulli, Normal
from torch.nn.functional import cross_entropy

from suffice.training import losses


@pytest.fixture
def answers():
    generator = torch.Generator().manual_seed(0)
    logits = [torch.randn(6, 4, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(3)]
    return logits, torch.randint(4, (6,), generator=generator)


def test_summed_and_weighted_are_sums_of_cross_entropies(answers):
    logits, labels = answers
    each = [cross_entropy(exit_, labels) for exit_ in logits]
    torch.testing.assert_close(losses.summed(logits, labels), sum(each))
    weighted = losses.Weighted([1.0, 0.5, 2.0])(logits, labels)
    torch.testing.assert_close(weighted, each[0] + 0.5 * each[1] + 2 * each[2])


def test_a_weight_for_each_exit_is_asked_for(answers):
    with pytest.raises(ValueError, match="a weight for each of 3 exits, got 2"):
        losses.Weighted([1.0, 1.0])(*answers)


def test_smoothed_labels_share_their_probability_with_all_classes(answers):
    logits, labels = answers
    each = [exit_.log_softmax(dim=1) for exit_ in logits]
    expected = sum(-0.7 * z[torch.arange(len(labels)), labels].mean() - 0.3 * z.mean() for z in each)
    torch.testing.assert_close(losses.Smoothed(0.3)(logits, labels), expected)


def test_distillation_adds_the_divergences_from_the_last_exit(answers):
    logits, labels = answers
    p = [(exit_ / 3).softmax(dim=1) for exit_ in logits]
    apart = [(p[2] * (p[2] / p[k]).log()).sum(dim=1).mean() for k in (0, 1)]
    expected = losses.summed(logits, labels) + 0.7 * 9 * (apart[0] + apart[1])
    torch.testing.assert_close(losses.Distilled(0.7, 3.0)(logits, labels), expected)


def test_the_teacher_learns_nothing_from_its_students(answers):
    logits, labels = answers
    losses.Distilled()(logits, labels).backward()
    taught = logits[2].grad.clone()
    logits[2].grad = None
    losses.summed(logits, labels).backward()
    torch.testing.assert_close(taught, logits[2].grad)


def test_a_single_exit_has_nobody_to_learn_from(answers):
    logits, labels = answers
    assert losses.Distilled()(logits[:1], labels) == losses.summed(logits[:1], labels)


def test_a_checkpoint_made_before_knows_the_losses_still():
    assert repr(losses.Smoothed(0.1)) == "Smoothed(smoothing=0.1)"
    assert repr(losses.Distilled()) == "Distilled(weight=1.0, temperature=3.0)"


def outputs(width, exits=2):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(6, width, generator=generator) for _ in range(exits)]


def test_one_logit_costs_the_negative_log_likelihood_of_its_class():
    given, labels = outputs(1), torch.tensor([0, 1, 1, 0, 1, 0])
    each = [-Bernoulli(logits=z[:, 0]).log_prob(labels.float()).mean() for z in given]
    torch.testing.assert_close(losses.summed(given, labels, "binary"), sum(each))
    torch.testing.assert_close(losses.Weighted([2.0, 0.5], "binary")(given, labels), 2 * each[0] + 0.5 * each[1])


def test_numbers_cost_their_squared_error_in_the_mean_over_examples_and_outputs():
    given, targets = outputs(3), outputs(3, exits=1)[0].double().flip(0)
    each = [sum(float((z[n, c] - targets[n, c]) ** 2) for n in range(6) for c in range(3)) / 18 for z in given]
    loss = losses.summed(given, targets, "regression")
    assert float(loss) == pytest.approx(sum(each), rel=1e-5)
    assert loss.dtype == torch.float32


def test_means_with_log_variances_cost_the_negative_log_density_but_for_its_constant():
    given, targets = outputs(4), outputs(2, exits=1)[0].double().flip(0)
    half = 0.5 * torch.log(torch.tensor(2 * torch.pi))
    each = [-Normal(z[:, :2], (z[:, 2:] / 2).exp()).log_prob(targets.float()).mean() - half for z in given]
    torch.testing.assert_close(losses.summed(given, targets, "heteroscedastic"), sum(each))
