"""Networks whose stages run the model's own forward again, as its Python code cannot be traced, are exported too."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

import suffice
from suffice.attach.cutting import replay
from suffice_runtime import Runner
from tests import builders
from tests.deploy import models
from tests.deploy.bundles import tolerance

LENGTHS = (models.TOKENS, 5, 14, 1)


class PlainPython(models.TextClassifier):
    """Text model with code that torch.fx cannot follow."""

    def forward(self, input_ids, attention_mask):
        hidden = nn.Tanh()(self.embeddings(input_ids))
        places = torch.arange(hidden.shape[1], device=hidden.device)
        for layer in self.layers:
            hidden = layer(hidden, attention_mask) + (places / hidden.shape[1])[:, None]
        kept = attention_mask[:, :, None].to(hidden.dtype)
        return self.head((hidden * kept).sum(dim=1) / kept.sum(dim=1))


@pytest.fixture(scope="module")
def calibrated():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = PlainPython(models.CLASSES).eval()
        network = models.drawn(suffice.attach_exits(model, at=["layers.0"], example=models.texts(4)))
    assert any(isinstance(module, replay.Stage) for module in network.modules())
    x = models.texts(40)
    return builders.untuned(network, x)


@pytest.fixture(scope="module")
def folder(calibrated, tmp_path_factory):
    folder = tmp_path_factory.mktemp("replayed") / "bundle"
    policy = suffice.allocate(calibrated, [models.texts(40, seed=5)], 0.8)
    suffice.export(calibrated, folder, policy=policy, example=models.texts(2))
    return folder


@pytest.mark.parametrize("tokens", LENGTHS)
def test_texts_of_any_length_are_predicted(tokens, calibrated, folder):
    x = models.texts(6, tokens, seed=tokens) if tokens > 3 else {k: v[:, :tokens] for k, v in models.texts(6).items()}
    allowed = tolerance(calibrated, x)
    found = Runner(folder).predict({name: values.numpy() for name, values in x.items()})
    for ours, theirs in zip(calibrated(x), found, strict=True):
        torch.testing.assert_close(torch.from_numpy(theirs.log_probs), ours.log_probs, atol=allowed, rtol=0)


def test_such_a_network_is_quantized_for_texts_of_any_length(calibrated):
    batches = [models.texts(20, tokens, seed=tokens) for tokens in (models.TOKENS, 6, models.TOKENS)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantized = suffice.quantize(calibrated, batches)
    for tokens in LENGTHS[:3]:
        x = models.texts(30, tokens, seed=tokens)
        ours, theirs = calibrated(x)[-1], quantized(x)[-1]
        assert torch.isfinite(theirs.probs).all()
        correlated = np.corrcoef(ours.log_probs.flatten(), theirs.log_probs.flatten())[0, 1]
        assert correlated > 0.9


def test_an_estimator_of_such_a_network_is_exported(calibrated, tmp_path):
    x = models.texts(60, seed=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator = suffice.fit_variation(
            calibrated.network, [x], [models.texts(30, seed=3)], teacher=suffice.MCDropout(passes=8), epochs=2
        )
        suffice.export(estimator, tmp_path / "bundle", example=models.texts(2))
        wanted = estimator.estimate(x).variation
        found = Runner(tmp_path / "bundle").estimate({name: values.numpy() for name, values in x.items()})
    np.testing.assert_allclose(found.variation, wanted.numpy(), rtol=1e-3)


def test_a_size_that_no_tensor_has_is_refused_by_the_stage(tmp_path):
    class Doubled(nn.Module):
        """Layer that also returns twice its tokens, which later layers only look at."""

        def forward(self, hidden):
            return hidden * 2, torch.cat([hidden, hidden], dim=1)

    class Model(PlainPython):
        def __init__(self, classes):
            super().__init__(classes)
            self.doubled = Doubled()

        def forward(self, input_ids, attention_mask):
            hidden, twice = self.doubled(nn.Tanh()(self.embeddings(input_ids)))
            for layer in self.layers:
                hidden = layer(hidden, attention_mask) / twice.shape[1]
            return self.head(hidden.mean(dim=1))

    network = models.drawn(suffice.attach_exits(Model(3).eval(), at=["layers.0"], example=models.texts(4)))
    with pytest.raises(ValueError, match=r"stage 0 to be computed alike for texts of any length, .*which no tensor in"):
        suffice.export(builders.untuned(network, models.texts(40)), tmp_path / "bundle", example=models.texts(2))
