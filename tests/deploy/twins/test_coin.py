"""The runtime's coin is that of the library, bit by bit."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from suffice.budget import coin
from suffice_runtime import coin as runtime
from tests import builders

NET = builders.network()
DTYPES = ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool", "complex64")


def random_array(seed, shape, dtype):
    """Return numbers of a type, negative ones and zeros among them."""
    generator = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "b":
        return generator.random(shape) < 0.5
    numbers = generator.normal(size=shape) * 10 ** generator.integers(0, 3)
    return numbers.astype("int64" if np.dtype(dtype).kind == "u" else dtype).astype(dtype)


leaf = st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 4), max_size=3), st.integers(0, 2**32 - 1))


@settings(deadline=None, max_examples=200)
@given(count=st.integers(0, 6), leaves=st.dictionaries(st.text("abcdef_0", min_size=1), leaf, min_size=1, max_size=3))
def test_coins_are_equal(count, leaves):
    x = {name: random_array(seed, (count, *shape), dtype) for name, (dtype, shape, seed) in leaves.items()}
    expected = coin.hash_to_unit({name: torch.from_numpy(array) for name, array in x.items()})
    found = runtime.hash_to_unit([x[name] for name in sorted(x)])
    assert found.tobytes() == expected.numpy().tobytes()
    assert runtime.redraw(found).tobytes() == coin.redraw(expected).numpy().tobytes()


@settings(deadline=None, max_examples=100)
@given(
    count=st.integers(1, 5),
    tokens=st.integers(1, 6),
    mask_dtype=st.sampled_from(["int64", "bool", "float32", "uint8"]),
    width=st.integers(1, 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_coins_of_padded_texts_are_equal(count, tokens, mask_dtype, width, seed):
    x = {
        "attention_mask": random_array(seed, (count, tokens), mask_dtype),
        "input_ids": random_array(seed + 1, (count, tokens), "int64"),
        "vectors": random_array(seed + 2, (count, tokens, width), "float32"),
        "whole": random_array(seed + 3, (count, width), "float64"),
    }
    expected = coin.coin_of(NET, {name: torch.from_numpy(array) for name, array in x.items()})
    packed = runtime.without_padding([x[name] for name in sorted(x)], sorted(x).index("attention_mask"))
    assert runtime.hash_to_unit(packed).tobytes() == expected.numpy().tobytes()


@pytest.mark.parametrize("narrow", [np.uint8, np.int16, np.int32])
def test_integers_of_fewer_bits_have_the_coin_that_they_have_after_conversion(narrow):
    """The runtime hashes inputs after their conversion to the type of the graph, the library before it."""
    x = random_array(0, (20, 5), narrow)
    expected = coin.hash_to_unit(torch.from_numpy(x)).numpy()
    assert runtime.hash_to_unit([x.astype(np.int64)]).tobytes() == expected.tobytes()
