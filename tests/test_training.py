import copy

import pytest
import torch

import suffice
from suffice.data import digits
from suffice.training import train


@pytest.fixture
def network():
    torch.manual_seed(0)
    return suffice.models.convnet(num_classes=10, widths=(4, 8))


def test_the_loss_falls_and_every_exit_learns(network):
    data = digits.load(seed=0)
    history = train(network, data.train.batches(64), epochs=8)
    assert history[-1] < history[0] / 4
    for logits in network.eval()(data.train.images):
        assert (logits.argmax(1) == data.train.labels).double().mean() > 0.8


def test_each_epoch_is_reported(network):
    seen = []
    history = train(network, digits.load(0).train.batches(), epochs=2, on_epoch=lambda e, loss: seen.append((e, loss)))
    assert seen == [(1, history[0]), (2, history[1])]


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
        train(network, digits.load(0).train.batches(64), epochs=3, learning_rate=1e12)


def test_an_empty_loader_is_an_error(network):
    with pytest.raises(ValueError, match="empty loader"):
        train(network, [], epochs=1)
