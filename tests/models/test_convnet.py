import pytest
import torch
from torch import nn

from suffice import models


@pytest.mark.parametrize("size", [8, 28])
def test_every_exit_returns_logits_for_small_images(size):
    net = models.convnet(10, in_channels=3)
    x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    assert [tuple(logits.shape) for logits in net(x)] == [(2, 10)] * 3


def test_there_is_an_exit_for_each_width_with_the_given_number_of_features():
    net = models.convnet(4, widths=(3, 5), features=7)
    assert len(net.exits) == 2
    assert all(net.exit(k).classifier.in_features == 7 for k in range(2))
    assert net.num_classes == 4


def test_dropout_is_active_in_training_only_and_has_the_given_rate():
    net = models.convnet(4, dropout=0.5)
    rates = {module.p for module in net.modules() if isinstance(module, nn.Dropout)}
    assert rates == {0.5}
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    net.train()
    assert not torch.equal(net(x)[-1], net(x)[-1])
    net.eval()
    assert torch.equal(net(x)[-1], net(x)[-1])


def test_examples_are_independent_in_evaluation_mode():
    net = models.convnet(4).eval()
    x = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for whole, part in zip(net(x), net(x[2:3]), strict=True):
        torch.testing.assert_close(whole[2:3], part)
