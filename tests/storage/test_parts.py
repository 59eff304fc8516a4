import math

import pytest
import torch

from suffice.storage.parts import ANY, INSIDE, NOT_NEGATIVE, POSITIVE, SHARE, Parts, Range, prefixed
from tests.storage.test_serializable import assert_canonical

NUMBERS = {"a": 0.5, "b": 2, "c": math.inf, "d": math.nan, "e": True, "f": "1", "g": 10**400, "h": None, "i": [1.0]}


def parts(tensors=None, **fields):
    return Parts(fields, tensors or {}, "the file")


def test_numbers_are_finite_floats_in_their_range_and_nothing_else():
    assert (parts(**NUMBERS).number("a"), parts(**NUMBERS).number("b", POSITIVE)) == (0.5, 2.0)
    assert type(parts(b=2).number("b")) is float
    assert parts(**NUMBERS).number("c", also=(math.inf,)) == math.inf
    assert math.isnan(parts(**NUMBERS).number("d", also=(math.nan,)))
    for name in "cdefghi":
        with pytest.raises(ValueError, match=f"^expected {name} to be a number, finite, got .* in the file"):
            parts(**NUMBERS).number(name)


@pytest.mark.parametrize(
    ("within", "inside", "outside"),
    [
        (POSITIVE, [1e-300, 5], [0, -1]),
        (NOT_NEGATIVE, [0, 5], [-1e-300]),
        (SHARE, [0, 1], [1.1, -0.1]),
        (INSIDE, [0.5], [0, 1]),
        (Range(least=2, below=3), [2, 2.9], [3, 1.9]),
        (ANY, [-1e300], []),
    ],
)
def test_ranges_hold_numbers_and_elements_alike(within, inside, outside):
    for value in inside:
        assert parts(x=value).number("x", within) == value
        tensor = torch.tensor([value], dtype=torch.float64)
        assert parts({"x": tensor}).tensor("x", "1", within) == value
    for value in [*outside, math.nan, math.inf]:
        with pytest.raises(ValueError, match="expected x to be a number, finite"):
            parts(x=value).number("x", within)
        elements = torch.tensor([inside[0], value], dtype=torch.float64)
        with pytest.raises(ValueError, match=r"expected tensor x to be finite.* throughout, got an element"):
            parts({"x": elements}).tensor("x", "2", within)


@pytest.mark.parametrize("value", [1.0, True, "1", None, -1, 1 << 60, [], {}])
def test_counts_are_whole_numbers(value):
    assert parts(n=3).count("n", 3, 3) == 3
    assert parts(n=[3, 0]).counts("n") == (3, 0)
    with pytest.raises(ValueError, match="expected n to be an integer from 0 to"):
        parts(n=value).count("n")
    with pytest.raises(ValueError, match=r"expected n\[1\] to be an integer from 0 to"):
        parts(n=[2, value]).counts("n")


def test_texts_and_choices_have_the_expected_type():
    given = parts(text="a", texts=["a", "b"], choice=False, number=1, list=["a", 1], digest="0" * 64)
    assert (given.text("text"), given.texts("texts"), given.choice("choice", (True, False))) == ("a", ("a", "b"), False)
    assert given.digest("digest") == "0" * 64
    with pytest.raises(ValueError, match=r"expected number to be one of \(True, 'product'\), got 1"):
        given.choice("number", (True, "product"))
    with pytest.raises(ValueError, match=r"expected list\[1\] to be a string, got 1"):
        given.texts("list")
    for other in ("0" * 63, "G" * 64, "0" * 64 + "\n"):
        with pytest.raises(ValueError, match="expected digest to be 64 hexadecimal digits"):
            parts(digest=other).digest("digest")


def test_missing_and_remaining_values_are_named_at_any_depth():
    with pytest.raises(ValueError, match="expected x to be present, got nothing in the file"):
        parts().number("x")
    with pytest.raises(ValueError, match=r"expected tensor x to be present, of shape \(3\), got none"):
        parts().tensor("x", "3")
    given = parts({"k0.x": torch.ones(2), "k1.x": torch.ones(2)}, k=[{}, {"y": {"z": 1}}])
    first, second = given.each("k", "k")
    first.tensor("x", "2")
    inner = second.inner("y")
    with pytest.raises(ValueError, match=r"expected tensor k1.x to be absent, got one of shape \(2,\)"):
        given.finish()
    second.tensor("x", "2")
    with pytest.raises(ValueError, match=r"expected k\[1\].y.z to be absent, got 1"):
        given.finish()
    assert inner.count("z") == 1
    given.finish()


@pytest.mark.parametrize("junk", [None, 1, "x", []])
def test_other_values_than_mappings_and_lists_are_refused(junk):
    with pytest.raises(ValueError, match="expected the configuration to be a mapping"):
        Parts(junk, {})
    with pytest.raises(ValueError, match=r"expected a\.b to be a mapping"):
        parts(a={"b": junk}).inner("a").inner("b")
    if junk != []:
        with pytest.raises(ValueError, match="expected a to be a list"):
            parts(a=junk).each("a")


def test_a_null_field_must_be_present():
    given = parts(a=None, b=0)
    assert given.none("a")
    assert not given.none("b")
    assert "a" not in given
    with pytest.raises(ValueError, match="expected c to be present"):
        given.none("c")


def test_letters_of_shapes_agree_within_an_artifact_and_its_parts():
    tensors = {"q": torch.eye(3), "r": torch.ones(3, 5), "in.s": torch.ones(5), "in.t": torch.ones(4)}
    given = parts(tensors)
    given.tensor("q", "C C")
    given.tensor("r", "C *")
    given.sizes["D"] = 5
    inner = given.under("in.")
    inner.tensor("s", "D")
    with pytest.raises(ValueError, match=r"expected tensor in.t to be of shape \(C\) with C = 3, got \(4,\)"):
        inner.tensor("t", "C")
    with pytest.raises(ValueError, match=r"expected tensor q to be of shape \(A, A\), got \(2, 3\)"):
        parts({"q": torch.ones(2, 3)}).tensor("q", "A A")
    with pytest.raises(ValueError, match=r"expected tensor q to be of shape \(2\), got \(2, 1\)"):
        parts({"q": torch.ones(2, 1)}).tensor("q", "2")


def test_types_are_the_stated_one_or_float32_or_float64():
    for dtype in (torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.complex64):
        with pytest.raises(ValueError, match=r"expected tensor x to be of type torch.float32 or torch.float64, got"):
            parts({"x": torch.ones(1).to(dtype)}).tensor("x", "1")
    given = parts({"x": torch.ones(1).double(), "y": torch.ones(1).double()})
    assert given.tensor("x", "1").dtype == torch.float64
    given.floating = torch.float32
    with pytest.raises(ValueError, match=r"expected tensor y to be of type torch.float32, got torch.float64"):
        given.tensor("y", "1")
    assert parts({"n": torch.arange(3)}).tensor("n", "3", dtype=torch.int64).tolist() == [0, 1, 2]
    like = torch.ones(2, 3, dtype=torch.float16)
    assert torch.equal(parts({"x": like}).tensor_like("x", like), like)


def test_rising_tensors_may_repeat_numbers_but_not_positions():
    assert len(parts({"x": torch.tensor([1.0, 1.0, 2.0])}).tensor("x", "3", rising=True)) == 3
    for falling in (torch.tensor([1.0, 0.5]), torch.tensor([1, 1])):
        with pytest.raises(ValueError, match="expected tensor x to be in rising order"):
            parts({"x": falling}).tensor("x", "2", dtype=falling.dtype, rising=True)


def test_tensors_have_canonical_layout_and_are_taken_by_prefix():
    unaligned = torch.frombuffer(bytearray(80), dtype=torch.float32)[1:5]
    given = parts({"x": torch.eye(3).T, **prefixed("in.", {"y": unaligned})})
    assert_canonical(given.tensor("x", "3 3"), "x")
    assert_canonical(given.under("in.").tensor("y", "4"), "y")
    given.finish()


def test_long_values_are_cut_in_messages():
    with pytest.raises(ValueError, match=r"got 'x{79}… in the file") as refused:
        parts(a="x" * 10**6).count("a")
    assert len(str(refused.value)) < 200
