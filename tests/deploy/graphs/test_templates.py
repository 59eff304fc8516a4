"""Nests without their tensors are the same for all inputs, up to sizes that are read from tensors."""

import pytest
import torch

from suffice.attach.cutting.packing import Outlines
from suffice.attach.cutting.plan import Layout, Outline
from suffice.deploy.graphs.templates import Template
from suffice.deploy.graphs.values import tensors_of


def outlines(*sizes, dtype=torch.float32, plain=1):
    outline = Outline(dtype, sizes, Layout(0))
    return Outlines((("layer#0", "structure", (outline, plain)), ("other#0", "structure", (outline,))))


def state(tokens, record):
    return {"h": torch.ones(2, tokens, 3), "record": record, "scale": torch.ones(2, tokens // 2)}


def test_a_template_is_filled_with_the_tensors_it_was_made_of():
    state = {"h": torch.ones(2), "past": [torch.zeros(2), 7], "name": "a"}
    template = Template.of(state)
    assert template.count == 2
    filled = template.fill(tensors_of(state))
    assert filled == state


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"a": torch.ones(2), "n": 4}, "do not depend on the inputs, got 3 and 4"),
        ({"a": torch.ones(2), "n": 3.0}, r"do not depend on the inputs, got 3 and 3\.0"),
        ({"a": torch.ones(2)}, "of one structure"),
        ({"a": torch.ones(2), "n": torch.ones(2)}, "do not depend on the inputs"),
        ({"a": [torch.ones(2)], "n": 3}, "of one structure"),
    ],
)
def test_nests_with_other_plain_values_are_refused(other, message):
    template = Template.of({"a": torch.ones(3), "n": 3})
    template.joined(Template.of({"a": torch.zeros(2), "n": 3}), "the state")
    with pytest.raises(ValueError, match=message):
        template.joined(Template.of(other), "the state")
    assert not template.is_like(other)


def test_a_nest_is_like_one_with_other_tensors_and_the_same_plain_values():
    template = Template.of({"a": torch.ones(3), "n": 3})
    assert template.is_like({"a": torch.zeros(2, 5), "n": 3})
    assert not template.is_like({"a": torch.zeros(2, 5), "n": 3.0})


def test_sizes_in_records_follow_the_tensors_that_have_them():
    first, second = Template.of(state(8, outlines(1, 8, 4, 5))), Template.of(state(6, outlines(1, 6, 3, 5)))
    joined = first.joined(second, "the state")
    for tokens in (8, 6, 11):
        nest = state(tokens, outlines(1, tokens, tokens // 2, 5))
        filled = joined.fill(tensors_of(nest))
        assert filled["record"] == nest["record"]
        assert joined.is_like(nest)
    assert not joined.is_like(state(8, outlines(1, 6, 4, 5)))
    assert not joined.is_like(state(8, outlines(1, 8, 4, 5, plain=2)))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (outlines(1, 12), "a size of 16 and 12, which no tensor in it has"),
        (outlines(1, 6, dtype=torch.float64), "differ in more than their sizes"),
        (outlines(1, 6, plain=2), "differ in more than their sizes"),
        (outlines(1, 6, 6), "differ in more than their sizes"),
    ],
)
def test_records_that_do_not_follow_the_tensors_are_refused(other, message):
    first = Template.of(state(8, outlines(1, 16)))
    with pytest.raises(ValueError, match=f"the state to be computed alike for texts of any length, .*{message}"):
        first.joined(Template.of(state(6, other)), "the state")
