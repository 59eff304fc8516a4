"""Fitted objects compute with exactly the tensors that their artifacts hold, on any processor."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import suffice
from suffice.calibration.serving.served import Served
from suffice.storage import artifact
from suffice.storage.seal import Seal
from suffice.storage.serializable import Serializable, canonical_layout, row_major_strides
from tests.robustness import kinds

NETWORK = (nn.Module, Seal, Served)
"""Types of which an artifact holds only a hash."""


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    """Return everything that an object holds, except its network, by path: fields and cached values."""
    if isinstance(value, (tuple, list)):
        inner = dict(enumerate(value))
    elif isinstance(value, dict) or not hasattr(value, "__dict__") or isinstance(value, (Tensor, type)):
        inner = value if isinstance(value, dict) else None
    else:
        inner = vars(value)
    if inner is None or isinstance(value, NETWORK):
        return {} if isinstance(value, NETWORK) else {path: value}
    return {key: leaf for name, part in inner.items() for key, leaf in leaves(part, f"{path}.{name}").items()}


def assert_canonical(tensor: Tensor, path: str) -> None:
    assert tensor.stride() == row_major_strides(tensor.shape), path
    assert tensor.storage_offset() == 0, path
    assert tensor.untyped_storage().nbytes() == tensor.nbytes, path
    assert tensor.data_ptr() % 64 == 0, path
    assert not tensor.requires_grad, path


def test_every_kind_of_artifact_has_a_maker():
    assert set(kinds.MAKERS) == set(artifact._KINDS)


@pytest.mark.parametrize(("kind", "variant"), kinds.EVERY)
def test_fitted_and_loaded_objects_hold_the_same_bytes_in_the_same_layout(kind, variant, tmp_path):
    case = kinds.case(kind, variant)
    suffice.save(case.made, tmp_path / "a")
    loaded = suffice.load(tmp_path / "a", network=case.network)
    for name, values in case.answer(case.made).items():
        assert torch.equal(values, case.answer(loaded)[name]), name
    fitted_leaves, loaded_leaves = leaves(case.made), leaves(loaded)
    assert fitted_leaves.keys() == loaded_leaves.keys()
    for path, value in fitted_leaves.items():
        other = loaded_leaves[path]
        assert type(value) is type(other), path
        if isinstance(value, Tensor):
            assert_canonical(value, path)
            assert_canonical(other, path)
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
def test_a_tensor_of_any_layout_is_copied_once(tensor):
    canonical = canonical_layout(tensor)
    assert_canonical(canonical, "")
    assert torch.equal(canonical, tensor)
    assert canonical.dtype == tensor.dtype
    assert canonical_layout(canonical) is canonical


def test_gradients_flow_and_values_inside_transforms_are_unchanged():
    x = torch.arange(6.0, requires_grad=True)
    canonical_layout(x.view(2, 3).T).square().sum().backward()
    assert torch.equal(x.grad, 2 * torch.arange(6.0))
    assert torch.equal(torch.func.grad(lambda x: canonical_layout(x.view(2, 3).T).square().sum())(x.detach()), x.grad)


def test_tensors_in_fields_and_tuples_get_canonical_layout():
    @dataclass(frozen=True)
    class Pair(Serializable):
        matrix: Tensor
        parts: tuple[Tensor, ...]
        count: int

    pair = Pair(torch.eye(3).T, (torch.eye(2).T, torch.ones(1).expand(4)), 3)
    for tensor in (pair.matrix, *pair.parts):
        assert_canonical(tensor, "")
    assert list(pair.tensors()) == ["matrix"]
