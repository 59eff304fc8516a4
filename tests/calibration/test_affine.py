"""Weights of classifiers whose class adds to those of `nn.Linear`."""

import pytest
import torch
from torch import nn
from torch.nn import functional

import suffice
from suffice.calibration.affine import weight_and_bias


class LowRank(nn.Linear):
    def __init__(self, features, outputs, bias=True):
        super().__init__(features, outputs, bias)
        self.down, self.up = nn.Parameter(torch.randn(2, features)), nn.Parameter(torch.randn(outputs, 2))

    def forward(self, phi):
        return super().forward(phi) + phi @ self.down.T @ self.up.T


class Cosine(nn.Linear):
    def forward(self, phi):
        return functional.linear(functional.normalize(phi), self.weight, self.bias)


def hooked(features, outputs):
    layer = nn.Linear(features, outputs)
    layer.register_forward_hook(lambda _module, _args, output: 3 * output)
    return layer


def merged(layer):
    """Return a plain layer with the same function."""
    plain = nn.Linear(layer.in_features, layer.out_features)
    scale = 3 if layer._forward_hooks else 1
    extra = layer.up @ layer.down if isinstance(layer, LowRank) else 0
    plain.weight.data, plain.bias.data = (scale * (layer.weight + extra)).detach(), (scale * layer.bias).detach()
    return plain


def fit(layer, **options):
    x = torch.randn(200, 6, generator=torch.Generator().manual_seed(1))
    network = suffice.ExitNetwork([nn.Identity()], [suffice.Exit(nn.Identity(), layer)])
    settings = {"tuning": "evidence", "generator": torch.Generator().manual_seed(0), **options}
    data = [(x, torch.arange(200) % 4)]
    return suffice.calibrate(network, data, None if settings["tuning"] == "evidence" else data, **settings)


@pytest.mark.parametrize("build", [LowRank, hooked])
def test_the_evidence_is_that_of_the_merged_layer(build):
    torch.manual_seed(0)
    layer = build(6, 4)
    own, plain = (fit(each).exits[0].prior_precision for each in (layer, merged(layer)))
    assert own == pytest.approx(plain, rel=1e-4)


def test_weights_of_a_subclass_are_read_off_from_its_outputs():
    torch.manual_seed(0)
    layer = LowRank(6, 4)
    weight, bias = weight_and_bias(layer)
    torch.testing.assert_close(weight, (layer.weight + layer.up @ layer.down).detach())
    assert torch.equal(bias, layer.bias)
    assert weight_and_bias(LowRank(6, 4, bias=False))[1] is None


def test_weights_of_the_class_itself_are_its_own():
    for layer in (nn.Linear(3, 2), nn.utils.parametrizations.weight_norm(nn.Linear(3, 2, bias=False))):
        weight, bias = weight_and_bias(layer)
        assert torch.equal(weight, layer.weight)
        assert bias is None or torch.equal(bias, layer.bias)


def test_a_subclass_that_is_not_affine_has_no_posterior():
    with pytest.raises(ValueError, match="expected a classifier that computes W φ \\+ b, got Cosine"):
        fit(Cosine(6, 4))
    assert fit(Cosine(6, 4), structure=None, tuning="validation").exits[0].posterior is None
