"""Names, types and dynamic axes of the inputs and outputs of graphs."""

import pytest
import torch

from suffice.deploy.graphs.values import EXAMPLES, TOKENS, Value, input_names

SIZES = {EXAMPLES: (3, 2), TOKENS: (8, 4)}


def between(first, second, sizes=SIZES):
    return Value.between("state.0", first, second, sizes)


def test_axes_that_differ_as_examples_and_tokens_do_have_their_names():
    value = between(torch.zeros(3, 8, 5), torch.zeros(2, 4, 5))
    assert value == Value("state.0", "float32", ("N", "T", 5))
    assert value.entry() == {"name": "state.0", "dtype": "float32", "shape": ["N", "T", 5]}


def test_another_axis_that_differs_has_a_name_of_its_own():
    assert between(torch.zeros(3, 9), torch.zeros(2, 5)).shape == ("N", "state.0.1")


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float64, torch.float16, torch.uint8])
def test_types_have_their_names_in_numpy(dtype):
    assert between(torch.zeros(3, dtype=dtype), torch.zeros(2, dtype=dtype)).dtype == str(dtype).removeprefix("torch.")


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (torch.zeros(3, 5), torch.zeros(2, 5, 1), "one type and number of dimensions"),
        (torch.zeros(3), torch.zeros(2).double(), "one type and number of dimensions"),
        (torch.zeros(()), torch.zeros(()), "one row for each of 3 examples"),
        (torch.zeros(4, 3), torch.zeros(4, 2), r"one row for each of 3 examples, got torch.float32 of shape \(4, 3\)"),
        (torch.zeros(3).bfloat16(), torch.zeros(2).bfloat16(), r"a type that NumPy has.*return it as float32"),
    ],
)
def test_a_tensor_that_cannot_pass_between_graphs_is_refused_by_its_name(first, second, message):
    with pytest.raises(ValueError, match=rf"expected 'state\.0' .*{message}"):
        between(first, second)


@pytest.mark.parametrize(
    ("x", "names"),
    [
        (torch.ones(2), ["input"]),
        ({"ids": torch.ones(2), "mask": torch.ones(2)}, ["ids", "mask"]),
        ((torch.ones(2), {"a": [torch.ones(2), 3]}), ["0", "1.a.0"]),
    ],
)
def test_inputs_have_the_names_of_their_places(x, names):
    assert input_names(x) == names


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ({"a": {"b": torch.ones(2)}, "a.b": torch.ones(2)}, "different names, got 'a.b' twice"),
        ({"log_probs": torch.ones(2)}, "other names than outputs, got 'log_probs'"),
        ({"state": [torch.ones(2)]}, "other names than outputs, got 'state.0'"),
        ({"score": torch.ones(2)}, "other names than outputs, got 'score'"),
    ],
)
def test_inputs_with_names_of_others_are_refused(x, message):
    with pytest.raises(ValueError, match=message):
        input_names(x)
