import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import suffice
from suffice.deploy.parity import Parity
from suffice.runs import checking, datasets, exporting, folder
from suffice.utils.progress import quiet
from suffice_runtime import Runner
from tests.deploy.bundles import require_exporter
from tests.runs import modules

pytestmark = pytest.mark.filterwarnings("ignore:.* ended at the edge of its range", "ignore:expected a mean cost of")


@pytest.fixture
def run(run_folder):
    """Run of a small network with a policy."""
    return folder.read(str(run_folder))


@pytest.fixture
def loaders():
    """Loaders of both parts."""
    return datasets.load("tests.runs.modules:sets")


@pytest.mark.slow
def test_a_checked_bundle_agrees_and_has_the_names_of_the_data(run, loaders, tmp_path):
    require_exporter()
    found = exporting.write_checked(run, tmp_path / "bundle", loaders, False, 20, quiet)
    assert found.parity.examples == 60
    assert found.batch == checking.TIMED
    checking.require_parity(found)
    measures = found.measures["float32"]
    hits = [run.calibrated(x)[-1].label == y for x, y in loaders.test]
    assert measures["accuracy"] == pytest.approx(float(torch.cat(hits).double().mean()))
    assert list(found.milliseconds) == [
        *("every exit, suffice", "every exit, bundle", "policy, suffice", "policy, bundle"),
    ]
    manifest = json.loads((tmp_path / "bundle" / "manifest.json").read_text())
    assert manifest["class_names"] == list("abcd")


@pytest.mark.slow
def test_int8_is_measured_beside_float32_and_has_a_policy_for_the_same_cost(run, loaders, tmp_path):
    require_exporter()
    found = exporting.write_checked(run, tmp_path / "bundle", loaders, True, 20, quiet)
    assert list(found.measures) == ["float32", "int8, temperatures of float32", "int8"]
    checking.require_parity(tmp_path, found)
    manifest = json.loads((tmp_path / "bundle" / "manifest.json").read_text())
    assert manifest["quantization"]["refit"]
    one_example = run.calibrated.costs.cumulative[-1] / 60
    assert abs(manifest["policy"]["expected"] - run.policy.expected) <= one_example + 0.005 * run.policy.expected


def test_a_bundle_without_a_check_is_that_of_the_example(run, tmp_path):
    require_exporter()
    np.save(tmp_path / "x.npy", np.zeros((3, 3), np.float32))
    exporting.write(run, tmp_path / "bundle", exporting.read_example(tmp_path / "x.npy"), 20, ("too", "few"))
    assert Runner(tmp_path / "bundle").manifest.class_names is None


def test_an_example_of_several_arrays_is_read_by_name(tmp_path):
    np.savez(tmp_path / "x.npz", ids=np.arange(6).reshape(2, 3), mask=np.ones((2, 3), bool))
    found = exporting.read_example(tmp_path / "x.npz")
    assert {name: tensor.dtype for name, tensor in found.items()} == {"ids": torch.int64, "mask": torch.bool}


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04", np.array(["text"]), np.array([{}])], ids=str)
def test_a_file_without_an_example_is_refused(tmp_path, content):
    file = tmp_path / "x.npy"
    file.write_bytes(content) if isinstance(content, bytes) else np.save(file, content, allow_pickle=True)
    with pytest.raises(ValueError, match=r"expected arrays of numbers in .*x.npy"):
        exporting.read_example(file)


@pytest.mark.parametrize("what", ["a guarantee", "prediction sets", "measured times"])
def test_a_policy_that_needs_data_of_its_own_is_not_made_again_for_int8(run, loaders, what):
    field = {"a guarantee": "promise", "prediction sets": "sets", "measured times": "profile"}[what]
    changed = replace(run, policy=replace(run.policy, **{field: object()}))
    with pytest.raises(ValueError, match=f"with --int8, got one with {what}"):
        exporting.quantize(changed, loaders, 20)


def test_another_folder_is_refused_before_any_work(run, loaders, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "quantize", lambda *_: pytest.fail("worked"))
    (tmp_path / "mine").touch()
    with pytest.raises(FileExistsError, match=r"which suffice.export did not write"):
        exporting.write_checked(run, tmp_path, loaders, True, 20, quiet)


@pytest.mark.parametrize("reason", ["no labels", "another answer"])
def test_a_bundle_that_does_not_pass_the_check_replaces_nothing(reason, run, loaders, tmp_path, monkeypatch):
    def check(*_):
        if reason == "no labels":
            raise ValueError("expected labels, got none")
        return checking.Check(Parity(60, (0.5,), 0, 0.0), None, {}, {}, 1)

    require_exporter()
    exporting.write(run, tmp_path / "bundle", loaders.test[0][0][:2], 20)
    before = {file.name: file.read_bytes() for file in (tmp_path / "bundle").iterdir()}
    monkeypatch.setattr(checking, "check", check)
    message = {
        "no labels": "expected labels, got none",
        "another answer": "a difference of 5.0e-01.*nothing was written",
    }
    with pytest.raises(ValueError, match=message[reason]):
        exporting.write_checked(run, tmp_path / "bundle", loaders, False, 18, quiet)
    assert {file.name: file.read_bytes() for file in (tmp_path / "bundle").iterdir()} == before
    assert not [file.name for file in tmp_path.iterdir() if file.name not in ("bundle", "run")]


def test_int8_of_an_estimator_alone_is_refused(run, loaders):
    with pytest.raises(ValueError, match="expected calibrated exits for --int8"):
        exporting.quantize(replace(run, calibrated=None), loaders, 20)


def test_the_scales_are_those_of_the_first_examples(run):
    parts = list(exporting._first(modules.sets().validation, run.calibrated, 30))
    assert [len(part) for part in parts] == [40]


@pytest.mark.slow
def test_an_estimator_is_compared_too(run, loaders, tmp_path):
    require_exporter()
    x = loaders.validation[0][0]
    teacher = suffice.MCDropout(rate=0.2, at=["stages.*"], passes=4)
    estimator = suffice.fit_variation(run.network, [x], [1 - x], teacher=teacher, layers="last", epochs=1)
    for calibrated in (run.calibrated, None):
        both = replace(run, calibrated=calibrated, estimator=estimator)
        found = exporting.write_checked(both, tmp_path / "bundle", loaders, False, 20, quiet)
        assert found.estimates.examples == 60
        assert (found.parity is None) == (calibrated is None)
        checking.require_parity(found)
