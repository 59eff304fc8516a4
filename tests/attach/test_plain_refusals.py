"""Models that have no classifier of the required form, or whose forward pass fails."""

from collections import namedtuple

import pytest
import torch
from torch import nn
from torch.nn import functional

from suffice.attach.plain import as_exit_network
from tests import builders
from tests.attach.plain_models import CLASSES, ResNet, built, hooks


class Changed(ResNet):
    """Model that applies `after` to the output of its classifier."""

    def __init__(self, after):
        super().__init__()
        self.after = after

    def forward(self, x):
        return self.after(super().forward(x))


Named = namedtuple("Named", ["loss", "scores"])


class TestRefused:
    @pytest.mark.parametrize(
        "after",
        [
            lambda z: z.softmax(dim=1),
            lambda z: z * 2,
            lambda z: z.mul_(2),
            lambda z: z[:, 0],
            lambda z: z[:, :3],
            lambda z: z[:, None],
            lambda z: torch.cat([z, z]),
        ],
        ids=["softmax", "scale", "in place", "squeeze", "fewer", "shape", "longer"],
    )
    def test_an_output_that_is_not_the_layers_is_an_error_with_the_layer_and_a_remedy(self, after):
        model, x = built(lambda: Changed(after))
        with pytest.raises(ValueError, match=r"not the output of 'fc' \(6 → 4\).*ExitNetwork\(\[stage\]"):
            as_exit_network(model, x)
        assert hooks(model) == 0

    def test_a_subclass_of_linear_with_another_forward(self):
        class Cosine(nn.Linear):
            def forward(self, phi):
                return functional.linear(functional.normalize(phi), functional.normalize(self.weight))

        model, x = built(ResNet)
        model.fc = Cosine(6, CLASSES)
        with pytest.raises(ValueError, match="not the output of 'fc'"):
            as_exit_network(model, x)

    def test_features_for_each_token(self):
        model = nn.Sequential(nn.Linear(3, 6), nn.Linear(6, CLASSES))
        with pytest.raises(ValueError, match=r"'1' \(6 → 4\) as the last, with an input of shape \(2, 5, 6\)"):
            as_exit_network(model, torch.zeros(2, 5, 3))

    def test_no_linear_layer(self):
        model, x = nn.Sequential(nn.Conv2d(1, CLASSES, 8), nn.Flatten()), torch.zeros(2, 1, 8, 8)
        with pytest.raises(ValueError, match=r"got Sequential, in which no nn.Linear ran: .* the model is compiled"):
            as_exit_network(model, x)

    def test_a_layer_that_runs_twice(self):
        layer = nn.Linear(CLASSES, CLASSES)
        with pytest.raises(ValueError, match=r"'0' \(4 → 4\) to be used once in a pass, got 2 runs"):
            as_exit_network(nn.Sequential(layer, layer), builders.inputs(2, CLASSES))

    def test_a_shared_weight(self):
        class Tied(nn.Module):
            def __init__(self):
                super().__init__()
                self.embedding, self.head = nn.Embedding(CLASSES, 6), nn.Linear(6, CLASSES)
                self.head.weight = self.embedding.weight

            def forward(self, ids):
                return self.head(self.embedding(ids).mean(dim=1))

        with pytest.raises(ValueError, match=r"its weight shared by \['embedding', 'head'\]"):
            as_exit_network(Tied(), torch.zeros(2, 3, dtype=torch.long))

    @pytest.mark.parametrize("after", [lambda z: {"scores": z}, lambda z: [], lambda z: Named(1.0, z)])
    def test_an_output_that_is_no_tensor(self, after):
        model, x = built(lambda: Changed(after))
        with pytest.raises(TypeError, match=r"expected logits.*got (dict|list|Named); wrap the model"):
            as_exit_network(model, x)

    def test_weights_that_are_not_finite(self):
        model, x = built(ResNet)
        with torch.no_grad():
            model.fc.weight[0, 0] = float("nan")
        with pytest.raises(ValueError, match="expected finite logits"):
            as_exit_network(model, x)

    def test_hooks_are_removed_and_modes_are_restored_when_the_model_fails(self):
        def fail(_):
            raise RuntimeError("inside")

        model, x = built(lambda: Changed(fail))
        model.train()
        with pytest.raises(RuntimeError, match="inside"):
            as_exit_network(model, x)
        assert hooks(model) == 0
        assert all(module.training for module in model.modules())
        net, _ = built(ResNet)
        wrapped = as_exit_network(net, x)
        with pytest.raises(RuntimeError, match=r"size of tensor|channels"):
            wrapped(x.expand(-1, 2, -1, -1))
        assert hooks(net) == 0

    def test_a_classifier_that_is_not_reached_later(self):
        model, x = built(ResNet)
        net = as_exit_network(model, x)
        model.forward = lambda x: x
        with pytest.raises(RuntimeError, match="to reach the classifier 'fc'"):
            net(x)
        assert hooks(model) == 0


def test_a_model_with_a_prediction_for_each_position_is_refused_as_such():
    segmentation = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 1))
    with pytest.raises(
        ValueError, match=r"one prediction for each example.* shape \(2, 3, 8, 8\), one for each position"
    ):
        as_exit_network(segmentation, torch.zeros(2, 1, 8, 8))


class Embedded(nn.Module):
    """Model that returns an embedding of some width, and its logits."""

    def __init__(self, width, kind=tuple):
        super().__init__()
        self.embed, self.fc, self.kind = nn.Linear(8, width), nn.Linear(width, 4), kind

    def forward(self, x):
        embedding = self.embed(x)
        return self.kind([embedding, self.fc(embedding.relu())])


def test_a_tuple_of_an_embedding_and_logits_is_refused():
    with pytest.raises(ValueError, match=r"'embed' \(8 → 6\) first and that of 'fc' \(6 → 4\) at position 1"):
        as_exit_network(Embedded(6).eval(), torch.randn(2, 8))


def test_the_last_entry_of_a_list_of_exits_is_the_logits():
    model, x = Embedded(4, list).eval(), torch.randn(2, 8)
    assert torch.equal(as_exit_network(model, x)(x)[0], model(x)[1])
