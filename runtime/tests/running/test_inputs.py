import re

import numpy as np
import pytest

import bundles
from suffice_runtime import Runner
from suffice_runtime.bundle.manifest import read
from suffice_runtime.running.inputs import check_finite, prepare

X = bundles.inputs(6)


def test_a_mapping_with_the_name_is_the_array(runner):
    a, b = runner.run(X), runner.run({"input": X, "labels": "left out"})
    assert a.probs.tobytes() == b.probs.tobytes()


@pytest.mark.parametrize("dtype", [np.float64, np.int64, np.int8, np.uint8, np.bool_, np.complex64])
def test_other_types_are_not_cast(runner, dtype):
    message = f"expected float32 for the input 'input', got {np.dtype(dtype)}; convert it, if that is meant, with "
    with pytest.raises(TypeError, match=re.escape(message + "x.astype(numpy.float32)")):
        runner.run(X.astype(dtype))


def test_types_that_hold_fewer_numbers_of_the_same_kind_are_converted(runner, opened):
    half = X.astype(np.float16)
    assert runner.run(half).probs.tobytes() == runner.run(half.astype(np.float32)).probs.tobytes()
    texts, x = opened(tokens=True), bundles.texts(5, 4)
    narrow = {"input_ids": x["input_ids"].astype(np.int16), "attention_mask": x["attention_mask"] != 0}
    assert texts.run(narrow).probs.tobytes() == texts.run(x).probs.tobytes()


@pytest.mark.parametrize("value", [[[1.0, 2.0, 3.0, 4.0]], 3.0, None, "x"])
def test_what_is_no_array_is_refused(runner, value):
    with pytest.raises(TypeError, match="expected a NumPy array of float32 for the input 'input', got a"):
        runner.run(value)


def test_a_mask_that_would_be_lost_is_refused(runner):
    with pytest.raises(TypeError, match="expected an array without a mask for the input 'input', got a masked array"):
        runner.run(np.ma.masked_array(X, mask=X > 0))


@pytest.mark.parametrize("shape", [(6, 5), (6, 4, 1), (6,), (), (6, 0)])
def test_other_shapes_are_refused(runner, shape):
    message = f"expected input float32 (N, 4) as an input, got shape {shape}"
    with pytest.raises(ValueError, match=re.escape(message)):
        runner.run(np.zeros(shape, np.float32))


def test_a_single_example_is_told_from_a_batch(runner):
    with pytest.raises(ValueError, match=re.escape("one example needs an axis for the batch, x[None]")):
        runner.run(X[0])


def test_arrays_in_any_layout_are_the_same(runner):
    wide = np.zeros((12, 8), np.float32)
    wide[::2, ::2] = X
    for x in (wide[::2, ::2], np.asfortranarray(X), X.astype(">f4")):
        assert runner.run(x).probs.tobytes() == runner.run(X).probs.tobytes()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("method", ["run", "predict", "anytime"])
def test_inputs_that_are_not_finite_are_refused_with_their_position(runner, method, value):
    x = X.copy()
    x[[2, 4], 3] = value
    message = "expected finite numbers in the input 'input', got NaN or infinity at position 2 (2 of 6 examples"
    with pytest.raises(ValueError, match=re.escape(message)):
        getattr(runner, method)(x)


TEXTS = bundles.texts(6, 5)

WRONG_TEXTS = [
    (TEXTS["input_ids"], TypeError, "a mapping with the arrays ['input_ids', 'attention_mask'], got a numpy.ndarray"),
    ({"input_ids": TEXTS["input_ids"]}, ValueError, "got ['input_ids']; add 'attention_mask'"),
    ({**TEXTS, "token_type_ids": TEXTS["input_ids"]}, ValueError, "leave out 'token_type_ids'"),
    ({**TEXTS, "attention_mask": TEXTS["attention_mask"][:5]}, ValueError, "with 6 rows as the other inputs"),
    ({**TEXTS, "attention_mask": TEXTS["attention_mask"][:, :4]}, ValueError, "with 5 tokens as there"),
    ({**TEXTS, "attention_mask": TEXTS["attention_mask"].astype(np.float32)}, TypeError, "int64 for the input 'att"),
    (
        {**TEXTS, "input_ids": TEXTS["input_ids"].astype(np.uint64)},
        TypeError,
        "int64 for the input 'input_ids', got ui",
    ),
]


@pytest.mark.parametrize(("x", "error", "message"), WRONG_TEXTS, ids=range(len(WRONG_TEXTS)))
def test_several_inputs_have_names_rows_and_tokens_in_common(opened, x, error, message):
    with pytest.raises(error, match=re.escape(message)):
        opened(tokens=True).run(x)


def test_inputs_in_mappings_of_mappings_have_dotted_names(tmp_path):
    folder = bundles.write(tmp_path, tokens=True)

    def dotted(entries):
        entries["inputs"][0]["name"] = entries["stages"][0]["inputs"][0]["name"] = "text.ids"

    bundles.edit(folder, dotted)
    x = {"text": {"ids": TEXTS["input_ids"]}, "attention_mask": TEXTS["attention_mask"]}
    arrays = prepare(x, read(folder))
    assert [array.tobytes() for array in arrays] == [array.tobytes() for array in TEXTS.values()]


def test_the_largest_numbers_are_finite(runner):
    large = np.full((3, 4), np.finfo(np.float32).max)
    arrays = prepare(large, runner.manifest)
    check_finite(arrays, runner.manifest)


def test_integers_out_of_the_range_of_the_manifest_are_refused_by_their_position(written, tmp_path):
    bundle = bundles.write(tmp_path / "bundle", tokens=True)

    def limit(manifest):
        manifest["inputs"][0]["range"] = [0, 50_000]

    bundles.edit(bundle, limit)
    runner, x = Runner(bundle), bundles.texts(6, 7)
    expected = Runner(written(tokens=True)).run(x)
    assert runner.run(x).probs.tobytes() == expected.probs.tobytes()
    x["input_ids"][4, 2] = 50_001
    with pytest.raises(ValueError, match="from 0 to 50000 in the input 'input_ids', got 50001 at position 4"):
        runner.run(x)


@pytest.mark.parametrize("limits", [[0], [1, 0], [0.0, 1], "01", [True, 2]])
def test_a_range_is_two_integers_in_rising_order(tmp_path, limits):
    bundle = bundles.write(tmp_path / "bundle", tokens=True)
    bundles.edit(bundle, lambda manifest: manifest["inputs"][0].update(range=limits))
    with pytest.raises(ValueError, match="two integers in rising order"):
        Runner(bundle)
