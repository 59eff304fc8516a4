import copy

import pytest
import torch
from torch import nn

import suffice
from suffice.data.sources import digits
from suffice.training import SGDConfig, cosine, losses, steps, train
from tests import builders


def test_the_loss_falls_and_every_exit_learns(network):
    data = digits.load(seed=0)
    history = train(network, data.train.batches(64), epochs=8)
    assert history[-1] < history[0] / 4
    for logits in network.eval()(data.train.images):
        assert (logits.argmax(1) == data.train.labels).double().mean() > 0.8


def test_each_epoch_is_reported(network):
    reports = []
    history = train(network, digits.load(0).train.batches(), epochs=2, on_epoch=lambda *report: reports.append(report))
    assert reports == [(1, history[0]), (2, history[1])]


def test_the_first_reported_loss_is_the_sum_of_the_exits_cross_entropies(network):
    x, y = torch.rand(16, 1, 8, 8), torch.arange(16) % 10
    torch.manual_seed(1)
    with torch.no_grad():
        buffers = copy.deepcopy(network.state_dict())
        expected = sum(torch.nn.functional.cross_entropy(z, y) for z in network.train()(x))
    network.load_state_dict(buffers)
    torch.manual_seed(1)
    assert train(network, [(x, y)], epochs=1)[0] == pytest.approx(float(expected), rel=1e-6)


def test_a_diverging_loss_is_an_error_that_names_the_epoch(network):
    with pytest.raises(FloatingPointError, match="in epoch 1"):
        train(network, digits.load(0).train.batches(64), epochs=3, optimizer=SGDConfig(learning_rate=1e12))


def test_an_empty_loader_is_an_error(network):
    with pytest.raises(ValueError, match="empty loader"):
        train(network, [], epochs=1)


def test_the_rate_is_divided_by_ten_at_half_and_at_three_quarters():
    assert [steps(done) for done in (0, 0.49, 0.5, 0.74, 0.75, 0.99)] == [1, 1, 0.1, 0.1, 0.01, 0.01]


def test_the_cosine_falls_from_one_to_zero():
    assert cosine(0) == 1
    assert cosine(0.5) == pytest.approx(0.5)
    assert cosine(1) == pytest.approx(0)


def test_exits_only_leaves_the_stages_unchanged(network):
    stages = copy.deepcopy(network.stages.state_dict())
    exits = copy.deepcopy(network.exits.state_dict())
    train(network, digits.load(0).train.batches(), epochs=1, exits_only=True)
    assert all(torch.equal(value, stages[name]) for name, value in network.stages.state_dict().items())
    assert not any(torch.equal(value, exits[name]) for name, value in network.exits.state_dict().items())
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert all(module.training for module in network.modules())


def test_parameters_without_gradient_stay_unchanged(network):
    weight = network.exit(0).classifier.weight.requires_grad_(False).clone()
    train(network, digits.load(0).train.batches(), epochs=1)
    assert torch.equal(network.exit(0).classifier.weight, weight)


def test_a_given_loss_is_minimized(network):
    history = train(network, digits.load(0).train.batches(64), epochs=3, loss=losses.Distilled())
    assert history[-1] < history[0]


@pytest.mark.parametrize("loss", ["ce", 0.1, losses.Distilled, nn.CrossEntropyLoss(), nn.functional.cross_entropy])
def test_a_loss_of_another_kind_is_refused(network, loss):
    with pytest.raises(
        TypeError, match=r"expected a loss of the outputs of all exits .* such as suffice.training.losses"
    ):
        train(network, [], epochs=1, loss=loss)


@pytest.mark.parametrize(
    ("loss", "likelihood"),
    [
        (losses.Smoothed(), "regression"),
        (losses.Distilled(), "regression"),
        (losses.Weighted([1.0, 1.0, 1.0]), "regression"),
        (losses.summed, "regression"),
        (losses.Weighted([1.0, 1.0, 1.0], "regression"), "classification"),
    ],
)
def test_a_loss_of_another_likelihood_is_refused(loss, likelihood):
    batch = builders.inputs(5), torch.zeros(5, 4) if likelihood == "regression" else torch.zeros(5, dtype=torch.long)
    with pytest.raises(ValueError, match=rf"expected a loss for .*, '{likelihood}', got .* for '(classif|regress)"):
        train(builders.network(), [batch], epochs=1, loss=loss, likelihood=likelihood)


def test_a_loss_without_a_likelihood_is_accepted_for_any():
    batch = builders.inputs(5), torch.zeros(5, 4)
    history = train(
        builders.network(),
        [batch],
        epochs=1,
        likelihood="regression",
        loss=lambda outputs, targets: sum(z.square().mean() for z in outputs),
    )
    assert len(history) == 1


def test_a_model_without_exits_is_refused_with_a_remedy():
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 4))
    with pytest.raises(TypeError, match=r"expected a suffice.ExitNetwork, got Sequential; .*suffice.attach_exits"):
        train(model, [], epochs=1)
    network, x = suffice.attach.plain.as_exit_network(model, builders.inputs(5)), builders.inputs(64)
    history = train(network, [(x, x[:, :2].argmax(dim=1))], epochs=20)
    assert history[-1] < history[0]


def trained(outputs, labels, likelihood):
    """Train a small network on 600 inputs; return the outputs of its exits and the labels."""
    network, x = builders.network(widths=(16, 16), classes=outputs, scale=0.2), builders.inputs(600)
    train(network, builders.batched(x, labels(x), 50), epochs=60, likelihood=likelihood, optimizer=SGDConfig(0.05))
    with torch.no_grad():
        return network.eval()(x), labels(x)


@pytest.mark.parametrize("columns", [[0, 1], [0], 0])
def test_regression_is_learned_at_every_exit(columns):
    def labels(x):
        return torch.stack([x[:, 0] * x[:, 1], 2 + x[:, 2].sin()], dim=1).double()[:, columns]

    exit_outputs, targets = trained(2 if columns == [0, 1] else 1, labels, "regression")
    for outputs in exit_outputs:
        expected = targets.reshape(outputs.shape)
        assert ((outputs - expected).square().mean(dim=0) < 0.1 * expected.var(dim=0)).all()


@pytest.mark.parametrize("dtype", [torch.long, torch.float32, torch.bool])
def test_binary_classification_is_learned_at_every_exit(dtype):
    exit_logits, labels = trained(1, lambda x: (x[:, 0] * x[:, 1] > 0).to(dtype), "binary")
    for logits in exit_logits:
        assert ((logits[:, 0] > 0) == labels.bool()).double().mean() > 0.93


def test_noise_that_depends_on_the_input_is_learned_at_every_exit():
    noise = torch.randn(600, generator=torch.Generator().manual_seed(1))
    exit_outputs, _ = trained(2, lambda x: x[:, 0] + (x[:, 1] / 2).exp() * noise, "heteroscedastic")
    x = builders.inputs(600)
    for outputs in exit_outputs:
        assert torch.corrcoef(torch.stack([outputs[:, 0], x[:, 0]]))[0, 1] > 0.9
        assert torch.corrcoef(torch.stack([outputs[:, 1], x[:, 1]]))[0, 1] > 0.9


@pytest.mark.parametrize(
    ("likelihood", "outputs", "labels", "message"),
    [
        ("classification", 4, torch.full((5,), 4), r"expected labels in \[0, 4\), got 4 at position 0"),
        ("classification", 1, torch.zeros(5), "pass likelihood='binary'"),
        ("binary", 1, torch.full((5,), 2), "expected labels 0 or 1, got 2 at position 0"),
        ("binary", 4, torch.zeros(5), "pass likelihood='classification'"),
        ("multilabel", 4, torch.zeros(5), r"labels of shape \(5, 4\), .* pass likelihood='classification'"),
        ("multilabel", 2, torch.full((5, 2), 2), "expected labels 0 or 1, got 2 for label 0 at position 0"),
        ("regression", 4, torch.zeros(5), r"expected numbers of shape \(5, 4\) as targets, got .* \(5,\)"),
        ("regression", 1, torch.full((5,), torch.nan), "expected finite targets, .* position 0"),
        ("heteroscedastic", 3, torch.zeros(5), "expected an even number of outputs"),
        ("poisson", 1, torch.zeros(5), "expected likelihood to be one of .* got 'poisson'"),
    ],
)
def test_labels_and_outputs_that_do_not_fit_the_likelihood_are_refused(likelihood, outputs, labels, message):
    network = builders.network(classes=outputs)
    with pytest.raises(ValueError, match=message):
        train(network, [(builders.inputs(5), labels)], epochs=1, likelihood=likelihood)


def test_steps_are_reported_with_the_remaining_time(network):
    reports = []
    train(network, digits.load(0).train.batches(400), epochs=3, on_step=reports.append)
    assert [(p.epoch, p.step) for p in reports] == [(e, s) for e in (1, 2, 3) for s in (1, 2)]
    assert all(p.seconds_left is None for p in reports[:2])
    assert all(p.seconds_left > 0 for p in reports[2:])
    assert reports[-1].epochs == 3


@pytest.mark.parametrize("dtype", [torch.long, torch.float32, torch.bool])
def test_several_labels_are_learned_at_every_exit(dtype):
    def labels(x):
        return torch.stack([x[:, 0] > x[:, 1], x[:, 2] > 0], dim=1).to(dtype)

    exit_logits, expected = trained(2, labels, "multilabel")
    for logits in exit_logits:
        assert ((logits > 0) == expected.bool()).double().mean(dim=0).min() > 0.93
