"""What cannot be exported is refused by one error, before anything is computed or written."""

import sys

import numpy as np
import pytest
import torch
from torch import nn

import suffice
from suffice.deploy import checks
from tests import builders
from tests.deploy.bundles import Setting, calibrated_for, policy_for

pytestmark = pytest.mark.filterwarnings(
    "ignore:.* ended at the edge of its range", "ignore:expected a mean cost of", "ignore:.*torch.jit"
)
X = builders.inputs(30)
USUAL = Setting("classification", "kronecker", "sampled", "product")


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def folder(tmp_path):
    """Return a folder in which `export` may not write: a file of the user lies there."""
    (tmp_path / "beside").write_text("beside")
    yield tmp_path
    assert contents(tmp_path) == {(tmp_path / "beside").relative_to(tmp_path): b"beside"}


def circular():
    value = {}
    value["itself"] = value
    return value


def deep(levels):
    value = ()
    for _ in range(levels):
        value = (value,)
    return {"deep": value}


ARGUMENTS = {
    "a policy of another type": ({"policy": "confidence"}, TypeError, "a policy or None, got str"),
    "an opset that is too old": ({"opset": 17}, ValueError, "an opset from 18 to 23, got 17; omit it for 20"),
    "an opset that is too new": ({"opset": 24}, ValueError, "an opset from 18 to 23, got 24"),
    "an opset of another type": ({"opset": "20"}, TypeError, "opset as a whole number, got '20'"),
    "a format by another name": (
        {"format": "tensorrt"},
        ValueError,
        "one of .'onnx', 'torch', 'inductor'., got 'tensorrt'",
    ),
    "a format of another type": ({"format": None}, ValueError, "format to be one of .* got None"),
    "an opset of programs": ({"format": "torch", "opset": 20}, ValueError, "no opset with format='torch'.* omit it"),
    "too few class names": ({"class_names": ["a"]}, ValueError, "4 class_names, one for each output, got 1"),
    "class names in a string": ({"class_names": "abcd"}, TypeError, "a sequence of strings, got 'abcd'"),
    "class names that are numbers": ({"class_names": [0, 1, 2, 3]}, TypeError, "class_names of strings, got 0; pass"),
    "a class name of two lines": ({"class_names": ["a", "b", "c", "d\ne"]}, ValueError, "printable characters"),
    "a class name that is no text": ({"class_names": ["a", "b", "c", "\ud800"]}, ValueError, "printable characters"),
    "an empty class name": ({"class_names": ["a", "b", "c", ""]}, ValueError, "printable characters, got ''"),
    "preprocessing that is no mapping": ({"preprocessing": ["resize"]}, TypeError, "as a mapping, got a list"),
    "preprocessing with an object": ({"preprocessing": {"f": print}}, TypeError, "that JSON can hold"),
    "preprocessing with NaN": ({"preprocessing": {"mean": [float("nan")]}}, TypeError, "that JSON can hold"),
    "preprocessing with a tensor": ({"preprocessing": {"mean": torch.ones(3)}}, TypeError, "that JSON can hold"),
    "preprocessing that holds itself": ({"preprocessing": circular()}, TypeError, "that JSON can hold"),
    "preprocessing of many levels": ({"preprocessing": deep(120)}, TypeError, "at most 100 levels"),
    "preprocessing of very many levels": ({"preprocessing": deep(5000)}, TypeError, "that JSON can hold"),
    "preprocessing with numbers as keys": ({"preprocessing": {"a": [{1: 2}]}}, TypeError, "strings as keys"),
    "no example": ({"example": None}, TypeError, "tensor"),
    "an empty example": ({"example": X[:0]}, ValueError, "one row or more, got none"),
    "an example of another width": ({"example": torch.randn(2, 5)}, ValueError, "that the calibrated network takes"),
    "an example of another kind": ({"example": {"a": X}}, ValueError, "that the calibrated network takes"),
    "an example with labels": ({"example": (X, torch.ones(30).long())}, ValueError, "pass x alone"),
    "an example with NaN": ({"example": X.clone().index_fill(0, torch.tensor(7), torch.nan)}, ValueError, "finite"),
    "an example of words": ({"example": ["a", "b"]}, TypeError, "tensor"),
}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_an_argument_that_does_not_fit_is_refused(case, folder):
    options, error, message = ARGUMENTS[case]
    with pytest.raises(error, match=message):
        suffice.export(calibrated_for(USUAL), folder / "bundle", **{"example": X, **options})


def test_a_network_that_is_not_calibrated_is_refused(folder):
    with pytest.raises(TypeError, match="calibrated"):
        suffice.export(builders.network(), folder / "bundle", example=X)


def test_a_policy_of_another_network_is_refused(folder):
    other = policy_for(Setting("classification", "lowrank", "probit", "average"), "aleatoric")
    with pytest.raises(ValueError, match="a policy for this calibrated network"):
        suffice.export(calibrated_for(USUAL), folder / "bundle", policy=other, example=X)


def test_a_score_that_is_a_function_of_the_user_is_refused(folder):
    calibrated = calibrated_for(USUAL)
    policy = suffice.allocate(calibrated, [X], 0.8, score=lambda prediction, state: prediction.confidence)
    with pytest.raises(ValueError, match=r"a score by name, one of .*'confidence'.*got a function"):
        suffice.export(calibrated, folder / "bundle", policy=policy, example=X)


def test_a_built_in_score_is_exported_as_a_function_too():
    assert checks.score_name(suffice.budget.scores.margin) == "margin"


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_network_in_another_floating_type_is_refused(dtype, folder):
    network = builders.network().to(dtype)
    with pytest.raises(TypeError, match=f"float32, got {dtype} at 'stages.0.0.weight'; call network.float"):
        suffice.export(builders.untuned(network, X.to(dtype)), folder / "bundle", example=X)


def compiled_in_place(module):
    module.compile(backend="eager")
    return module


@pytest.mark.parametrize(
    "change",
    [torch.jit.script, lambda module: torch.compile(module, backend="eager"), compiled_in_place],
    ids=["scripted", "compiled", "compiled in place"],
)
def test_a_compiled_or_scripted_module_is_refused_by_its_name(change, folder):
    network = builders.network()
    network.stages[1] = change(network.stages[1])
    with pytest.raises(TypeError, match=r"compiled or scripted one at 'stages\.1'; save the calibration"):
        suffice.export(builders.untuned(network, X), folder / "bundle", example=X)


def test_weights_that_have_changed_since_the_calibration_are_refused(folder):
    network = builders.network()
    calibrated = builders.untuned(network, X)
    with torch.no_grad():
        network.exit(0).classifier.weight.mul_(2)
    with pytest.raises(ValueError, match="weights"):
        suffice.export(calibrated, folder / "bundle", example=X)


def test_a_stage_of_two_gigabytes_is_refused_by_its_number():
    network = builders.network()
    network.stages[2] = nn.Linear(1 << 15, 1 << 14, device="meta")
    with pytest.raises(ValueError, match=r"less than 2\.1 GB in each graph, got 2\.1 GB in stage 2; attach more exits"):
        checks.network(network)


@pytest.mark.parametrize("missing", ["onnx", "onnxscript"])
def test_a_missing_extra_is_named(missing, folder, monkeypatch):
    find = checks.find_spec
    monkeypatch.setattr(checks, "find_spec", lambda name: None if name == missing else find(name))
    with pytest.raises(ImportError, match=rf"expected {missing} to export.*pip install 'suffice\[export\]'"):
        suffice.export(calibrated_for(USUAL), folder / "bundle", example=X)


def test_a_version_of_torch_that_is_too_old_is_named(folder, monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.12.1+cpu")
    with pytest.raises(ImportError, match=r"PyTorch 2\.13 or later to export, got 2\.12\.1\+cpu"):
        suffice.export(calibrated_for(USUAL), folder / "bundle", example=X)


def test_a_missing_compiler_is_named(folder):
    from torch._inductor import config

    with (
        config.patch({"cpp.cxx": (None, "no-such-compiler")}),
        pytest.raises(
            RuntimeError, match=r"a C\+\+ compiler for format='inductor', found none; install .* format='torch'"
        ),
    ):
        suffice.export(calibrated_for(USUAL), folder / "bundle", example=X, format="inductor")


def test_programs_of_torch_need_no_package_of_onnx(monkeypatch, tmp_path):
    for name in ("onnx", "onnxscript", "onnx_ir"):
        monkeypatch.setitem(sys.modules, name, None)  # an import of it raises an ImportError
    find = checks.find_spec
    monkeypatch.setattr(checks, "find_spec", lambda name: None if name in checks.ONNX else find(name))
    suffice.export(calibrated_for(USUAL), tmp_path / "bundle", example=X, format="torch")
    assert (tmp_path / "bundle" / "stage-1.pt2").exists()


def test_an_opset_of_numpy_is_a_whole_number():
    assert type(checks.operators(np.int64(20))) is int


FOLDERS = {
    "a folder with files of the user": lambda path: (path.mkdir(), (path / "notes.txt").write_text("mine")),
    "a file": lambda path: path.write_text("mine"),
    "a folder with a manifest of another program": lambda path: (
        path.mkdir(),
        (path / "manifest.json").write_text("{}"),
    ),
    "a broken link": lambda path: path.symlink_to(path.parent / "nothing"),
    "a saved network": lambda path: suffice.save(calibrated_for(USUAL), path),
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_folder_that_is_no_bundle_is_refused_and_stays(kind, tmp_path):
    FOLDERS[kind](tmp_path / "bundle")
    before = contents(tmp_path)
    with pytest.raises(FileExistsError, match=r"expected a (new )?path"):
        suffice.export(calibrated_for(USUAL), tmp_path / "bundle", example=X)
    assert contents(tmp_path) == before
