import pytest
import torch
from torch import nn
from torch.nn import functional

import suffice
from tests.attach.test_attach import attached
from tests.robustness.lookalikes import ResNet, Router, TextModel, VisionTransformer, built


def pooling_of(net):
    features = [net.exit(k).features for k in range(len(net.exits) - 1)]
    return [(each[1] if isinstance(each, nn.Sequential) else each.pool).pooling for each in features]


class TestPooling:
    @pytest.mark.parametrize(
        ("kind", "at", "pooling"),
        [
            (ResNet, ["layer1"], "positions"),
            (TextModel, ["layers.0"], "tokens"),
            (VisionTransformer, ["encoder.layers.0"], "class token"),
            (Router, [], "none"),
        ],
    )
    def test_is_chosen_by_the_shape_of_the_state_and_the_models_own_pooling(self, kind, at, pooling):
        model, x = built(kind)
        at = at or [
            nn.Sequential(nn.Flatten(), model.enter),
            nn.Sequential(nn.Tanh(), model.middle, nn.Tanh(), model.fc),
        ]
        assert pooling_of(suffice.attach_exits(model, at, example=x)) == [pooling]

    @pytest.mark.parametrize(
        ("pooling", "expected"),
        [("tokens", lambda h: h.mean(1)), ("class token", lambda h: h[:, 0]), ("positions", lambda h: h.mean(2))],
    )
    def test_by_name_pools_as_named(self, pooling, expected):
        _, x, net = attached(VisionTransformer, ["encoder.layers.0"], pooling=pooling)
        state, phi = net.advance(0, x)
        (tokens,) = state.values()
        torch.testing.assert_close(phi, functional.layer_norm(expected(tokens), phi.shape[1:]))

    def test_by_module_gives_each_exit_a_copy(self):
        pooling = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())
        _, _, net = attached(ResNet, ["layer1", "layer2"], pooling=pooling)
        assert [net.exit(k).classifier.in_features for k in range(2)] == [24, 32]
        assert net.exit(0).features[1] is not net.exit(1).features[1]

    def test_without_one_vector_per_example_is_refused(self):
        with pytest.raises(ValueError, match=r"one vector per example, \(2, D\), got shape \(2, 6, 8, 8\) from"):
            attached(ResNet, ["layer1"], pooling="none")

    def test_with_an_unknown_name_is_refused(self):
        with pytest.raises(ValueError, match=r"expected pooling to be one of .*'tokens'.* got 'mean'"):
            attached(ResNet, ["layer1"], pooling="mean")
