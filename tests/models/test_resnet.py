import pytest
import torch
from torch import nn

from suffice import cost, models
from suffice.models.resnet import Residual


def images(count, size=32):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)])
def test_the_network_without_its_earlier_exits_has_the_published_number_of_parameters(depth, millions):
    net = models.resnet(depth, 10)
    count = sum(parameter.numel() for module in (net.stages, net.exits[-1]) for parameter in module.parameters())
    assert round(count / 1e6, len(str(millions)) - 2) == millions


@pytest.mark.parametrize("depth", [20, 32])
def test_the_number_of_layers_with_weights_is_the_depth(depth):
    net = models.resnet(depth, 10)
    assert sum(isinstance(module, nn.Conv2d) for module in net.modules()) + 1 == depth


def test_multiply_adds_are_those_of_its_convolutions():
    costs = cost.count(models.resnet(20, 10), torch.zeros(1, 3, 32, 32))
    area, same = 32 * 32, 9 * 16 * 16
    halving = area // 4 * 9 * (16 * 32 + 32 * 32)
    assert costs.stages[:2] == (area * (9 * 3 * 16 + 6 * same), halving + area // 4 * 4 * 9 * 32 * 32)
    assert costs.exits == (160, 320, 640)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_block_without_convolutions_is_its_shortcut(stride):
    block = Residual(3, 3 * stride, stride).eval()
    for module in (block.first, block.second):
        nn.init.zeros_(module[0].weight)
    x = images(2, 8)
    out = block(x)
    assert torch.equal(out[:, :3], x[..., ::stride, ::stride].relu())
    assert not out[:, 3:].any()


def test_examples_are_independent_in_evaluation_mode():
    net, x = models.resnet(8, 4).eval(), images(6)
    for whole, part in zip(net(x), net(x[2:3]), strict=True):
        torch.testing.assert_close(whole[2:3], part)


@pytest.mark.parametrize("depth", [2, 18, 0])
def test_other_depths_are_refused(depth):
    with pytest.raises(ValueError, match=rf"expected a depth of 6n \+ 2.*got {depth}"):
        models.resnet(depth, 10)
