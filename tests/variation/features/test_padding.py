"""Strengths of token models leave padding out, so that an estimate does not depend on the longest text in a batch."""

import pytest
import torch
from torch import nn

import suffice
from suffice.attach.tokens.masks import TokenMask
from suffice.variation.features.strengths import capture, summary
from tests.attach.tokens.test_masks import ByComplement, ByIds, ByLengths, ByMask, Decoder, Tokens, inputs, texts

KINDS = [ByMask, ByComplement, ByIds, ByLengths, Decoder]


def built(kind):
    torch.manual_seed(0)
    model = kind().eval()
    model.drop = nn.Dropout(0.3)
    encode = model.encode
    model.encode = lambda ids, valid: model.drop(encode(ids, valid).relu())
    return model


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strengths", ["value", "on", "both"])
def test_strengths_are_the_same_alone_and_with_any_padding(kind, strengths):
    model, lengths = kind().eval(), [3, 5, 1, 4]
    ids = texts(lengths, 5, seed=1)
    _, expected = capture(model, inputs(kind, ids), ["layer"], strengths)
    for width in (6, 12):
        _, got = capture(model, inputs(kind, nn.functional.pad(ids, (0, width - 5))), ["layer"], strengths)
        torch.testing.assert_close(got["layer"], expected["layer"])


def test_the_mean_and_the_greatest_value_are_those_of_the_tokens_that_count():
    values = torch.tensor([[[1.0, -2.0], [3.0, -4.0], [9.0, 9.0]], [[5.0, 5.0], [7.0, 7.0], [7.0, 7.0]]])
    counted = torch.tensor([[True, True, False], [False, False, False]])
    mean, greatest, on = summary("layer", values, 2, "both", counted)
    assert mean.tolist() == [[2, -3], [0, 0]]
    assert greatest.tolist() == [[3, -2], [0, 0]]
    assert on.tolist() == [[1, 0], [0, 0]]


def test_another_number_of_tokens_than_in_the_mask_is_refused_by_the_layer():
    with pytest.raises(ValueError, match=r"layer 'a' with the \(2, 3\) tokens of the mask, .* got shape \(2, 2"):
        summary("a", torch.zeros(2, 2, 4), 2, "value", torch.ones(2, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"got shape \(2, 4, 3, 3\), in which some positions may be padding; leave"):
        summary("a", torch.zeros(2, 4, 3, 3), 2, "value", torch.ones(2, 3, dtype=torch.bool))


def test_an_estimator_keeps_the_mask_when_it_is_saved(tmp_path):
    model = built(ByMask)
    texts_of = [inputs(ByMask, texts([7, 4, 5, 2] * 25, 7, seed)) for seed in (0, 1)]
    teacher = suffice.MCDropout(passes=8)
    estimator = suffice.fit_variation(
        model, texts_of[:1], texts_of[1:], teacher=teacher, layers=["layer"], epochs=2,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert estimator.reader.mask == TokenMask("attention_mask", "true")
    x = inputs(ByMask, texts([3, 5, 1, 4], 5, seed=2))
    longer = {name: nn.functional.pad(value, (0, 4)) for name, value in x.items()}
    torch.testing.assert_close(estimator(longer)[1], estimator(x)[1])
    configuration, _ = estimator.parts()
    assert configuration["reader"]["mask"] == {"key": "attention_mask", "kind": "true", "value": 0}


def test_a_model_whose_padding_no_input_marks_is_refused_unless_no_layer_is_read():
    class EverySecond(Tokens):
        def __init__(self):
            super().__init__()
            self.drop = nn.Dropout(0.3)

        def forward(self, ids):
            return self.fc(self.drop(self.encode(ids, ids >= 0)[:, ::2].mean(1).relu()))

    model, *loaders = EverySecond().eval(), [texts([7] * 60, 7)], [texts([7] * 60, 7, seed=1)]
    teacher = suffice.MCDropout(passes=4)
    with pytest.raises(ValueError, match=r"whose padding an input marks, got .* pass layers=\[\]"):
        suffice.fit_variation(model, *loaders, teacher=teacher, layers=["layer"], epochs=1)
    assert suffice.fit_variation(model, *loaders, teacher=teacher, layers=[], epochs=1).reader.mask is None
