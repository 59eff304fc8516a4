"""A bundle holds a tokenizer as it is, whatever other calls have left in it, and answers texts by it."""

import json

import numpy as np
import pytest

import suffice
from suffice.deploy.bundle.tokenizer import Tokenizer
from suffice.deploy.graphs.values import Value
from tests.deploy import models

tokenizers = pytest.importorskip("tokenizers")

WORDS = {f"w{i}": i for i in range(models.VOCABULARY)}


def tokenizer():
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    made = tokenizers.Tokenizer(WordLevel(WORDS, unk_token="w1"))
    made.pre_tokenizer = Whitespace()
    return made


def test_padding_and_truncation_of_other_calls_are_left_out():
    made, plain = tokenizer(), Tokenizer.of(tokenizer())
    made.enable_padding(direction="left", pad_id=3, pad_type_id=1, length=40)
    made.enable_truncation(6)
    found = Tokenizer.of(made)
    assert found.payload == plain.payload
    assert (found.pad_id, found.pad_type_id, found.left, found.longest) == (3, 1, True, 6)
    assert (plain.pad_id, plain.pad_type_id, plain.left, plain.longest) == (0, 0, False, None)


def test_a_tokenizer_of_transformers_states_its_padding_and_its_length():
    transformers = pytest.importorskip("transformers")
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer(), pad_token="w5", model_max_length=12)
    made(["w2 w3", "w4"], padding=True, truncation=True)
    found = Tokenizer.of(made)
    assert (found.pad_id, found.left, found.longest) == (5, False, 12)
    assert json.loads(found.payload)["padding"] is None
    unlimited = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer(), pad_token="w5")
    assert Tokenizer.of(unlimited).longest is None


@pytest.mark.parametrize("other", ["bert-base-uncased", 3, str.split])
def test_anything_else_is_refused(other):
    with pytest.raises(TypeError, match=r"expected a fast tokenizer of transformers, or one of tokenizers, got \w+"):
        Tokenizer.of(other)


@pytest.mark.parametrize(("inputs", "message"), [
    ([Value("x", "int64", ("N", "T"))], "for a tokenizer, got 'x' "),
    ([Value("input_ids", "int64", ("N", 9))], r"for a tokenizer, got 'input_ids' \(N, 9\)"),
    ([Value("attention_mask", "int64", ("N", "T"))], "the input 'input_ids' for a tokenizer, got none"),
])  # fmt: skip
def test_other_inputs_are_refused(inputs, message):
    with pytest.raises(ValueError, match=message):
        Tokenizer.of(tokenizer()).check_inputs(inputs)


def test_texts_are_answered_as_their_tokens_are(tmp_path):
    runtime = pytest.importorskip("suffice_runtime")
    calibrated, policy = models.calibrated_text(), models.text_policy()
    x = models.texts(20)
    texts = [" ".join(f"w{token}" for token in row[row > 0].tolist()) for row in x["input_ids"]]
    suffice.export(calibrated, tmp_path / "bundle", policy=policy, example=models.texts(2), tokenizer=tokenizer())
    answer, wanted = runtime.Runner(tmp_path / "bundle").run(texts), suffice.run(calibrated, policy, x)
    np.testing.assert_allclose(answer.probs, wanted.probs, atol=1e-5)
    assert answer.macs.tolist() == wanted.macs.tolist()
    suffice.export(calibrated, tmp_path / "bundle", policy=policy, example=models.texts(2))  # without one, in its place
    assert not (tmp_path / "bundle" / "tokenizer.json").exists()
