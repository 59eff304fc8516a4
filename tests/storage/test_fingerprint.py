import copy
import io
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import gelu, relu

import suffice
from suffice.storage.fingerprint import check_fingerprint, check_structure, fingerprint, fingerprints, structure
from tests import builders


class WithFunction(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function, self.note = function, "not compared"
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        return self.function(self.linear(x))


def layers(activation=nn.ReLU, rate=0.3, stride=2, eps=1e-5):
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=stride), activation(), nn.Dropout(rate), nn.GroupNorm(2, 4, eps))


def test_weights_have_equal_hashes_by_their_content_whatever_their_names():
    first, second = nn.Linear(4, 4), nn.Sequential(nn.ReLU(), nn.Linear(4, 4))
    second[1].load_state_dict(first.state_dict())
    assert fingerprints(second) == {f"1.{name}": weight for name, weight in fingerprints(first).items()}
    with torch.no_grad():
        second[1].bias[0] += 1
    assert fingerprints(second)["1.weight"] == fingerprints(first)["weight"]
    assert fingerprints(second)["1.bias"] != fingerprints(first)["bias"]
    assert (
        len(set(fingerprints(nn.BatchNorm1d(2)).values())) == 3
    )  # weight and variance are both ones, bias and mean zeros
    assert fingerprints(nn.Linear(2, 3, bias=False).double()) != fingerprints(nn.Linear(2, 3, bias=False))


def test_the_structure_has_the_classes_and_constructor_arguments_of_torch_modules():
    compared = structure(layers())
    assert compared["0"]["class"] == "Conv2d"
    assert (compared["0"]["stride"], compared["0"]["padding"], compared["0"]["in_channels"]) == ([2, 2], [0, 0], 3)
    assert compared["1"] == {"class": "ReLU"}
    assert compared["2"] == {"class": "Dropout", "p": 0.3}
    assert compared["3"]["eps"] == 1e-5


def test_the_structure_has_the_torch_functions_of_other_modules_and_nothing_else_of_them():
    compared = structure(WithFunction(gelu))
    assert compared[""] == {"function": "gelu"}
    assert compared["linear"]["out_features"] == 4


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"activation": nn.GELU}, "expected ReLU in module '1', as at fitting, got GELU"),
        ({"rate": 0.4}, "expected p=0.3 in module '2', as at fitting, got p=0.4"),
        ({"stride": 1}, r"expected stride=\[2, 2\] in module '0', as at fitting, got stride=\[1, 1\]"),
        ({"eps": 1e-3}, "expected eps=1e-05 in module '3', as at fitting, got eps=0.001"),
    ],
)
def test_equal_weights_in_another_structure_are_refused_with_both_values(other, message):
    torch.manual_seed(0)
    one, two = layers(), layers(**other)
    two.load_state_dict(one.state_dict())
    check_fingerprint(two, fingerprint(one))
    check_structure(one, structure(one))
    with pytest.raises(ValueError, match=message):
        check_structure(two, structure(one))


def test_another_function_is_refused():
    with pytest.raises(ValueError, match="expected function=gelu in module '', as at fitting, got function=relu"):
        check_structure(WithFunction(relu), structure(WithFunction(gelu)))


def test_modes_and_momentum_are_no_part_of_the_structure():
    model = nn.Sequential(nn.BatchNorm1d(3, momentum=0.1), nn.ReLU())
    other = nn.Sequential(nn.BatchNorm1d(3, momentum=0.2), nn.ReLU(inplace=True)).eval()
    assert structure(other) == structure(model)


@pytest.mark.parametrize("change", ["value", "name", "shape", "type"])
def test_names_shapes_types_and_bytes_are_hashed(change):
    state = {"weight": torch.arange(6.0)}
    changed = {
        "value": {"weight": torch.arange(6.0) + 1},
        "name": {"other": torch.arange(6.0)},
        "shape": {"weight": torch.arange(6.0).reshape(2, 3)},
        "type": {"weight": torch.arange(6.0).view(torch.int32)},
    }[change]

    def module(tensors):
        built = nn.Module()
        for name, tensor in tensors.items():
            built.register_buffer(name, tensor)
        return built

    assert fingerprint(module(state)) == fingerprint(module({"weight": torch.arange(6.0)}))
    assert fingerprint(module(changed)) != fingerprint(module(state))


class Extra(nn.Linear):
    def __init__(self, value):
        torch.manual_seed(0)
        super().__init__(2, 2)
        self.value = value

    def get_extra_state(self):
        return self.value


def quantized(scale):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.quantize_per_tensor", UserWarning)
        return torch.quantize_per_tensor(torch.ones(2), scale, 0, torch.qint8)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"version": 3}, {"version": 4}),
        ({"scales": [torch.ones(2)]}, {"scales": [torch.zeros(2)]}),
        (np.ones(2), np.zeros(2)),
        (io.BytesIO(b"one"), io.BytesIO(b"other")),
        (b"one", b"other"),
        (torch.qint8, torch.quint8),
        (quantized(0.5), quantized(0.25)),
        (torch.ones(2, dtype=torch.complex64).mul(1j).conj(), torch.ones(2, dtype=torch.complex64).mul(1j)),
        (torch.eye(2).to_sparse(), 2 * torch.eye(2).to_sparse()),
        (object(), 3),
    ],
)
@pytest.mark.filterwarnings("ignore:TypedStorage")
def test_values_of_any_type_in_a_state_dict_are_part_of_the_hash(one, other):
    assert fingerprint(Extra(one)) == fingerprint(Extra(copy.deepcopy(one)))
    assert fingerprint(Extra(one)) != fingerprint(Extra(other))


def test_the_hash_of_a_mapping_in_a_state_dict_does_not_depend_on_its_order():
    assert fingerprint(Extra({"a": 1, "b": 2})) == fingerprint(Extra({"b": 2, "a": 1}))


def test_a_calibration_of_a_network_with_extra_state_is_saved_and_loaded(tmp_path):
    x, y = builders.inputs(60), torch.arange(60) % 2
    model = nn.Sequential(nn.Linear(x.shape[1], 2), nn.ReLU(), Extra({"version": 3}))
    calibrated = suffice.calibrate(model, [(x, y)], None, tuning="evidence")
    suffice.save(calibrated, tmp_path / "c")
    model[2].value = {"version": 4}
    with pytest.raises(ValueError, match="expected a network whose weights have the hash"):
        suffice.load(tmp_path / "c", network=model)
    model[2].value = {"version": 3}
    loaded = suffice.load(tmp_path / "c", network=model)
    assert torch.equal(loaded(x)[-1].probs, calibrated(x)[-1].probs)
