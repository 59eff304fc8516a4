import pytest
import torch
from torch import nn
from torch.nn import functional

from suffice.attach.cutting.blank import Blank, BlankValueError, origins_of

CPU = torch.device("cpu")


def blank(*shape, dtype=torch.float32, origin="a"):
    return Blank.of(shape, dtype, CPU, origin)


@pytest.mark.parametrize(
    "operation",
    [
        lambda h: h + torch.ones(8),
        lambda h: h.view(2, 5, 2, 4).transpose(1, 2).reshape(2, 2, 20),
        lambda h: functional.layer_norm(h, (8,)),
        lambda h: nn.Linear(8, 3)(h),
        lambda h: functional.scaled_dot_product_attention(h, h, h),
        lambda h: torch.cat([h, torch.zeros(2, 1, 8)], dim=1),
        lambda h: h.long(),
        lambda h: h.max(dim=1).values,
        lambda h: nn.LSTM(8, 4, batch_first=True)(h)[0],
    ],
)
def test_operations_give_the_shapes_and_types_that_they_give_for_tensors(operation):
    expected, got = operation(torch.zeros(2, 5, 8)), operation(blank(2, 5, 8))
    assert isinstance(got, Blank)
    assert (got.shape, got.dtype, got.device) == (expected.shape, expected.dtype, CPU)
    assert origins_of(got) == {"a"}


@pytest.mark.parametrize("operation", [torch.zeros_like, torch.ones_like, lambda h: h.new_full((3,), 2.0)])
def test_results_that_depend_on_the_shape_alone_have_values(operation):
    got = operation(blank(2, 3))
    assert not isinstance(got, Blank)
    assert torch.equal(got, operation(torch.zeros(2, 3)))


@pytest.mark.parametrize(
    "reading",
    [
        lambda h: bool((h > 0).any()),
        lambda h: h.sum().item(),
        lambda h: h.tolist(),
        lambda h: h.numpy(),
        lambda h: h.nonzero(),
        lambda h: h[h > 0],
        lambda h: torch.ones(8).add_(h[0, 0]),
        lambda h: torch.add(h, 1, out=torch.empty(2, 5, 8)),
        lambda h: 3 in h,
    ],
)
def test_reading_values_is_an_error_that_names_them(reading):
    with pytest.raises(BlankValueError, match=r"needs the values of \['a'\]") as caught:
        reading(blank(2, 5, 8))
    assert caught.value.origins == {"a"}


def test_origins_are_joined_and_writing_adds_them():
    first, second = blank(2, 3), blank(2, 3, origin="b")
    assert origins_of([first * second, torch.ones(1)]) == {"a", "b"}
    first += second
    first[0] = torch.zeros(3)
    assert origins_of(first) == {"a", "b"}
    assert origins_of(torch.ones(2)) == frozenset()
