import sys

import pytest
import torch
from safetensors.torch import save_file

from suffice.runs import networks
from tests.runs import modules
from tests.runs.conftest import NETWORK

OTHER = "tests.runs.modules:other"


def weights(network):
    return torch.cat([parameter.flatten() for parameter in network.parameters()])


def test_a_function_of_a_module_in_the_current_folder_builds_the_network(tmp_path, monkeypatch):
    (tmp_path / "my_module_of_the_folder.py").write_text(
        "import torch\nclass Nets:\n    @staticmethod\n    def build():\n        return torch.nn.Linear(3, 2).train()\n"
    )
    monkeypatch.chdir(tmp_path)
    network = networks.build("my_module_of_the_folder:Nets.build")
    assert network.out_features == 2
    assert not network.training
    sys.path.remove(str(tmp_path))
    del sys.modules["my_module_of_the_folder"]


def test_a_pretrained_network_is_built_by_its_name():
    assert len(networks.build("cifar100-msdnet-small").exits) == 4


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("resnet", "import path such as package.module:function, or one of"),
        (":f", "expected an import path such as package.module:function, got ':f'"),
        ("a:", "got 'a:'"),
        ("a:b:c", "got 'a:b:c'"),
        ("no_such_module:f", "No module named 'no_such_module'; run in the folder of the module, or correct"),
        ("tests.runs.modules:no_such", "has no attribute 'no_such'"),
    ],
)
def test_an_unknown_name_is_refused(name, reason):
    with pytest.raises(ValueError, match=reason):
        networks.build(name)


def test_a_function_that_returns_no_module_is_refused():
    with pytest.raises(TypeError, match=r"expected tests.runs.modules:nothing to return a torch.nn.Module, got None"):
        networks.build("tests.runs.modules:nothing")


def test_an_error_of_the_function_is_the_users_own(monkeypatch):
    monkeypatch.setattr(modules, "network", lambda: 1 / 0)
    with pytest.raises(ValueError, match="to return a result when called without arguments, got ZeroDivisionError"):
        networks.build(NETWORK)


def test_a_program_that_exits_is_no_success(monkeypatch):
    monkeypatch.setattr(modules, "network", lambda: sys.exit(0))
    with pytest.raises(ValueError, match="got SystemExit: 0; --debug shows where"):
        networks.build(NETWORK)


@pytest.mark.parametrize("ending", [".safetensors", ".pt", ".pth", ".bin"])
def test_weights_are_read_from_files(tmp_path, ending):
    network, file = modules.network(), tmp_path / f"weights{ending}"
    state = modules.other().state_dict()
    save_file(state, file) if ending == ".safetensors" else torch.save(state, file)
    networks.read_weights(network, file)
    assert torch.equal(weights(network), weights(modules.other()))


class Custom:
    """Object that only pickle's code could read."""


FILES = [
    "another format",
    "no safetensors",
    "no pickle",
    "an empty file",
    "a list",
    "a number",
    "code",
    "a checkpoint",
    "half precision",
    "a prefix",
    "another network",
]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("w.onnx", b"", "expected weights in a file ending in .safetensors or .pt, .pth, .bin, got 'w.onnx'"),
        ("w.safetensors", b"hello", "expected safetensors in .*w.safetensors, got"),
        ("w.pt", b"hello", "expected a state dict in .*w.pt, got .*; save it by torch.save"),
        ("w.pt", b"", "expected a state dict in .*w.pt, got"),
        ("w.pt", [1, 2], "expected a state dict in .*w.pt, got list"),
        ("w.pt", {"a": 1}, "expected a state dict in .*w.pt, got dict"),
        ("w.pt", Custom(), "expected a state dict in .*w.pt, got Weights only load failed"),
        ("w.pt", {"state_dict": modules.other().state_dict()}, r"got dict; save it by torch.save\(checkpoint"),
        ("w.pt", modules.network().half().state_dict(), r"in torch.float32 in .*w.pt, got torch.float16, which would"),
        ("w.pt", {f"module.{k}": v for k, v in modules.other().state_dict().items()}, "remove the prefix 'module.'"),
        ("w.pt", modules.narrow().state_dict(), "expected the weights of this network in .*w.pt, got others: Missing"),
    ],
    ids=FILES,
)
def test_other_files_of_weights_are_refused_and_change_nothing(tmp_path, name, content, reason):
    network, file = modules.network(), tmp_path / name
    file.write_bytes(content) if isinstance(content, bytes) else torch.save(content, file)
    with pytest.raises(ValueError, match=reason):
        networks.read_weights(network, file)
    assert torch.equal(weights(network), weights(modules.network()))


def test_a_missing_file_of_weights_is_named(tmp_path):
    for name in ("none.pt", "none.safetensors"):
        with pytest.raises(FileNotFoundError, match=name):
            networks.read_weights(modules.network(), tmp_path / name)


def test_a_saved_network_is_built_again_with_its_weights(tmp_path):
    networks.save(modules.other(), NETWORK, tmp_path / "network")
    assert torch.equal(weights(networks.load(tmp_path / "network")), weights(modules.other()))


def test_a_saved_network_whose_function_now_builds_another_is_refused(tmp_path):
    networks.save(modules.network(), "tests.runs.modules:narrow", tmp_path / "network")
    with pytest.raises(ValueError, match="expected"):
        networks.load(tmp_path / "network")
