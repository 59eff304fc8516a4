import pytest
import torch
from torch.distributions import Bernoulli, Normal
from torch.nn.functional import cross_entropy

from suffice.training import losses


@pytest.fixture
def outputs_and_labels():
    generator = torch.Generator().manual_seed(0)
    logits = [torch.randn(6, 4, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(3)]
    return logits, torch.randint(4, (6,), generator=generator)


def test_summed_and_weighted_are_sums_of_cross_entropies(outputs_and_labels):
    logits, labels = outputs_and_labels
    exit_losses = [cross_entropy(exit_, labels) for exit_ in logits]
    torch.testing.assert_close(losses.summed(logits, labels), sum(exit_losses))
    weighted = losses.Weighted([1.0, 0.5, 2.0])(logits, labels)
    torch.testing.assert_close(weighted, exit_losses[0] + 0.5 * exit_losses[1] + 2 * exit_losses[2])


def test_a_missing_weight_is_an_error(outputs_and_labels):
    with pytest.raises(ValueError, match="a weight for each of 3 exits, got 2"):
        losses.Weighted([1.0, 1.0])(*outputs_and_labels)


def test_smoothed_labels_share_their_probability_with_all_classes(outputs_and_labels):
    logits, labels = outputs_and_labels
    log_probs = [exit_.log_softmax(dim=1) for exit_ in logits]
    expected = sum(-0.7 * z[torch.arange(len(labels)), labels].mean() - 0.3 * z.mean() for z in log_probs)
    torch.testing.assert_close(losses.Smoothed(0.3)(logits, labels), expected)


def test_distillation_adds_the_divergences_from_the_last_exit(outputs_and_labels):
    logits, labels = outputs_and_labels
    p = [(exit_ / 3).softmax(dim=1) for exit_ in logits]
    divergences = [(p[2] * (p[2] / p[k]).log()).sum(dim=1).mean() for k in (0, 1)]
    expected = losses.summed(logits, labels) + 0.7 * 9 * (divergences[0] + divergences[1])
    torch.testing.assert_close(losses.Distilled(0.7, 3.0)(logits, labels), expected)


def test_the_teacher_gets_no_gradient_from_its_students(outputs_and_labels):
    logits, labels = outputs_and_labels
    losses.Distilled()(logits, labels).backward()
    gradient = logits[2].grad.clone()
    logits[2].grad = None
    losses.summed(logits, labels).backward()
    torch.testing.assert_close(gradient, logits[2].grad)


def test_distillation_of_a_single_exit_is_the_sum(outputs_and_labels):
    logits, labels = outputs_and_labels
    assert losses.Distilled()(logits[:1], labels) == losses.summed(logits[:1], labels)


def test_the_repr_of_the_losses_matches_earlier_checkpoints():
    assert repr(losses.Smoothed(0.1)) == "Smoothed(smoothing=0.1)"
    assert repr(losses.Distilled()) == "Distilled(weight=1.0, temperature=3.0)"


def random_outputs(width, exits=2):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(6, width, generator=generator) for _ in range(exits)]


def test_binary_loss_is_the_negative_log_likelihood():
    outputs, labels = random_outputs(1), torch.tensor([0, 1, 1, 0, 1, 0])
    first, second = [-Bernoulli(logits=z[:, 0]).log_prob(labels.float()).mean() for z in outputs]
    torch.testing.assert_close(losses.summed(outputs, labels, "binary"), first + second)
    torch.testing.assert_close(losses.Weighted([2.0, 0.5], "binary")(outputs, labels), 2 * first + 0.5 * second)


def test_regression_loss_is_the_squared_error_averaged_over_examples_and_outputs():
    outputs, targets = random_outputs(3), random_outputs(3, exits=1)[0].double().flip(0)
    errors = [sum(float((z[n, c] - targets[n, c]) ** 2) for n in range(6) for c in range(3)) / 18 for z in outputs]
    loss = losses.summed(outputs, targets, "regression")
    assert float(loss) == pytest.approx(sum(errors), rel=1e-5)
    assert loss.dtype == torch.float32


def test_heteroscedastic_loss_is_the_negative_log_density_without_its_constant():
    outputs, targets = random_outputs(4), random_outputs(2, exits=1)[0].double().flip(0)
    half = 0.5 * torch.log(torch.tensor(2 * torch.pi))
    nll = [-Normal(z[:, :2], (z[:, 2:] / 2).exp()).log_prob(targets.float()).mean() - half for z in outputs]
    torch.testing.assert_close(losses.summed(outputs, targets, "heteroscedastic"), sum(nll))


def test_multilabel_loss_is_the_negative_log_likelihood_averaged_over_examples_and_labels():
    outputs, labels = random_outputs(3), torch.arange(18).reshape(6, 3) % 2
    first, second = [-Bernoulli(logits=z).log_prob(labels.float()).mean() for z in outputs]
    torch.testing.assert_close(losses.summed(outputs, labels, "multilabel"), first + second)
    torch.testing.assert_close(losses.Weighted([2.0, 0.5], "multilabel")(outputs, labels), 2 * first + 0.5 * second)
    one = [z[:, :1] for z in outputs]
    assert losses.summed(one, labels[:, :1], "multilabel") == losses.summed(one, labels[:, 0], "binary")


@pytest.mark.parametrize("loss", [losses.Smoothed(), losses.Distilled(), losses.summed])
def test_losses_of_classes_are_refused_for_several_labels(loss):
    with pytest.raises(ValueError, match="expected a loss for the likelihood of the training, 'multilabel'"):
        losses.check(loss, "multilabel")
