import pytest
import torch
from torch import nn

from suffice import cost, models
from suffice.models.vit import Block


def images(count, size=16):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def small(**options):
    options = {"image_size": 16, "patch_size": 8, "width": 12, "depth": 4, "heads": 2, "exits_after": (1, 3), **options}
    return models.vit(5, **options)


def test_there_is_an_exit_after_each_block_named_and_after_the_last():
    net = small()
    blocks = [sum(isinstance(module, Block) for module in stage) for stage in net.stages]
    assert blocks == [1, 2, 1]
    assert [tuple(logits.shape) for logits in net(images(2))] == [(2, 5)] * 3


def test_a_block_equals_pytorchs_encoder_layer_with_norm_first():
    block = Block(12, heads=3, dropout=0.0).eval()
    layer = nn.TransformerEncoderLayer(12, 3, 48, 0.0, "gelu", batch_first=True, norm_first=True).eval()
    parts = {
        "self_attn": block.attention,
        "linear1": block.mlp[0],
        "linear2": block.mlp[2],
        "norm1": block.before_attention,
        "norm2": block.before_mlp,
    }
    for name, part in parts.items():
        for parameter in part.parameters():
            nn.init.normal_(parameter, std=0.3)
        layer.get_submodule(name).load_state_dict(part.state_dict())
    tokens = torch.randn(2, 7, 12, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(block(tokens), layer(tokens))


def test_logits_depend_on_every_patch_and_its_position():
    net, x = small().eval(), images(1)
    whole = net(x)[0]
    for row in (0, 8):
        for column in (0, 8):
            changed = x.clone()
            changed[..., row : row + 8, column : column + 8] = 0
            assert (net(changed)[0] - whole).abs().max() > 1e-4
    assert (net(x.roll(8, dims=-1))[0] - whole).abs().max() > 1e-4


def test_multiply_adds_are_counted_as_by_hand():
    tokens, width, patches = 5, 12, 4
    block = tokens * 12 * width**2 + 2 * tokens**2 * width
    costs = cost.count(small(), images(2))
    assert costs.stages == (patches * 3 * 64 * width + block, 2 * block, block)
    assert costs.exits == (width * 5,) * 3


def test_dropout_is_active_in_training_only():
    net, x = small(dropout=0.5), images(2)
    assert not torch.equal(net(x)[-1], net(x)[-1])
    net.eval()
    assert torch.equal(net(x)[-1], net(x)[-1])


def test_examples_are_independent_in_evaluation_mode():
    net, x = small().eval(), images(6)
    for whole, part in zip(net(x), net(x[2:3]), strict=True):
        torch.testing.assert_close(whole[2:3], part)


@pytest.mark.parametrize("after", [(0,), (4,), (2, 2), (3, 1), (-1,)])
def test_exits_must_increase_below_the_depth(after):
    with pytest.raises(ValueError, match="to increase strictly within 1 to 3, numbers of blocks out of 4"):
        small(exits_after=after)


def test_patches_must_tile_the_image():
    with pytest.raises(ValueError, match="expected patches that tile the image, got 5 × 5 of 16"):
        small(patch_size=5)
