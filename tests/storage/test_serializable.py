"""What is fitted computes with exactly what an artifact keeps of it, however a processor's kernels round."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import suffice
from suffice.calibration.served import Served
from suffice.storage import artifact
from suffice.storage.seal import Seal
from suffice.storage.serializable import Serializable, canonical_layout, row_major_strides
from tests import kinds

NETWORK = (nn.Module, Seal, Served)
"""Of what an artifact keeps nothing but a hash."""


def held(value: Any, path: str = "") -> dict[str, Any]:
    """All that an object computes with, fields and what it has put by, but for its network; by the way to it."""
    if isinstance(value, (tuple, list)):
        inner = dict(enumerate(value))
    elif isinstance(value, dict) or not hasattr(value, "__dict__") or isinstance(value, (Tensor, type)):
        inner = value if isinstance(value, dict) else None
    else:
        inner = vars(value)
    if inner is None or isinstance(value, NETWORK):
        return {} if isinstance(value, NETWORK) else {path: value}
    return {key: found for name, part in inner.items() for key, found in held(part, f"{path}.{name}").items()}


def assert_stored(tensor: Tensor, path: str) -> None:
    assert tensor.stride() == row_major_strides(tensor.shape), path
    assert tensor.storage_offset() == 0, path
    assert tensor.untyped_storage().nbytes() == tensor.nbytes, path
    assert tensor.data_ptr() % 64 == 0, path
    assert not tensor.requires_grad, path


def test_every_kind_that_can_be_saved_is_made_here():
    assert set(kinds.MAKERS) == set(artifact._KINDS)


@pytest.mark.parametrize(("kind", "variant"), kinds.EVERY)
def test_what_is_fitted_and_what_is_loaded_hold_the_same_bytes_in_the_same_layout(kind, variant, tmp_path):
    case = kinds.case(kind, variant)
    suffice.save(case.made, tmp_path / "a")
    loaded = suffice.load(tmp_path / "a", network=case.network)
    for name, values in case.answer(case.made).items():
        assert torch.equal(values, case.answer(loaded)[name]), name
    mine, others = held(case.made), held(loaded)
    assert mine.keys() == others.keys()
    for path, value in mine.items():
        other = others[path]
        assert type(value) is type(other), path
        if isinstance(value, Tensor):
            assert_stored(value, path)
            assert_stored(other, path)
            assert value.dtype == other.dtype, path
            assert torch.equal(value, other), path
        elif not callable(value):
            assert repr(value) == repr(other), path


@pytest.mark.parametrize(
    "tensor",
    [
        torch.eye(3)[:, 1:],
        torch.arange(6.0).view(2, 3).T,
        torch.ones(1).expand(4),
        torch.arange(12.0)[4:],
        torch.empty_strided((1, 5), (1, 1)).fill_(2),
        torch.frombuffer(bytearray(80), dtype=torch.float32)[1:5],
        torch.tensor(3.0),
        torch.empty(0, 3),
        torch.ones(2, 3, dtype=torch.int64),
    ],
)
def test_a_tensor_is_stored_once_whatever_its_layout(tensor):
    found = canonical_layout(tensor)
    assert_stored(found, "")
    assert torch.equal(found, tensor)
    assert found.dtype == tensor.dtype
    assert canonical_layout(found) is found


def test_storing_passes_gradients_on_and_leaves_transformed_values_alone():
    x = torch.arange(6.0, requires_grad=True)
    canonical_layout(x.view(2, 3).T).square().sum().backward()
    assert torch.equal(x.grad, 2 * torch.arange(6.0))
    assert torch.equal(torch.func.grad(lambda x: canonical_layout(x.view(2, 3).T).square().sum())(x.detach()), x.grad)


def test_tensors_in_fields_and_tuples_of_an_object_that_is_saved_are_stored_and_named():
    @dataclass(frozen=True)
    class Pair(Serializable):
        matrix: Tensor
        parts: tuple[Tensor, ...]
        count: int

    pair = Pair(torch.eye(3).T, (torch.eye(2).T, torch.ones(1).expand(4)), 3)
    for tensor in (pair.matrix, *pair.parts):
        assert_stored(tensor, "")
    assert list(pair.tensors()) == ["matrix"]
