"""The folder of a bundle is replaced whole or not at all, and its manifest holds what a runtime needs."""

import contextlib
import hashlib
import json
import os

import pytest
import torch

import suffice
from suffice.deploy.bundle import manifest
from suffice.deploy.translation.formats import SUFFIXES
from suffice.storage import manifests
from tests.deploy import bundles
from tests.deploy.bundles import FEW, NESTED, Setting, calibrated_for, policy_for
from tests.robustness import faults

pytestmark = pytest.mark.filterwarnings("ignore:.* ended at the edge of its range", "ignore:expected a mean cost of")
USUAL = Setting("classification", "kronecker", "sampled", "product")


def entries(stages, version=1, format="onnx"):
    """Return the entries that decide whether a folder is a bundle."""
    return {
        "graph_format": format,
        "format": manifest.FORMAT,
        "format_version": manifest.FORMAT_VERSION,
        "library": "suffice 0.1.0",
        "exits": stages,
        "stages": [{"file": f"stage-{k}{SUFFIXES[format]}"} for k in range(stages)],
        "version": version,
    }


def write(folder, stages=2, version=1, format="onnx"):
    graphs = [f"graph {version} {k}".encode() for k in range(stages)]
    manifest.write(folder, entries(stages, version, format), graphs, {"model_card.md": b"card\n"})


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_bundle_is_replaced_with_all_its_files(tmp_path):
    write(tmp_path / "bundle", stages=3)
    write(tmp_path / "bundle", stages=2, version=2)
    assert set(contents(tmp_path / "bundle")) == {"manifest.json", "model_card.md", "stage-0.onnx", "stage-1.onnx"}
    assert (tmp_path / "bundle" / "stage-1.onnx").read_bytes() == b"graph 2 1"
    manifest.check_replaceable(tmp_path / "bundle")
    assert json.loads((tmp_path / "bundle" / "manifest.json").read_text())["manifest_sha256"]


def test_folders_above_a_bundle_are_made(tmp_path):
    write(tmp_path / "a" / "b" / "bundle")
    assert len(contents(tmp_path / "a" / "b" / "bundle")) == 4


def test_a_link_stays_and_its_destination_is_replaced(tmp_path):
    write(tmp_path / "releases")
    (tmp_path / "current").symlink_to("releases")
    manifest.check_replaceable(tmp_path / "current")
    write(tmp_path / "current", version=2)
    assert os.readlink(tmp_path / "current") == "releases"
    assert (tmp_path / "releases" / "stage-0.onnx").read_bytes() == b"graph 2 0"


@pytest.mark.parametrize("format", ["torch", "inductor"])
def test_a_bundle_is_replaced_by_one_in_another_format(format, tmp_path):
    write(tmp_path / "bundle")
    write(tmp_path / "bundle", format=format)
    assert set(contents(tmp_path / "bundle")) == {"manifest.json", "model_card.md", "stage-0.pt2", "stage-1.pt2"}
    write(tmp_path / "bundle", stages=1)
    assert set(contents(tmp_path / "bundle")) == {"manifest.json", "model_card.md", "stage-0.onnx"}


@pytest.mark.parametrize(("format", "name"), [("torch", "stage-0.onnx"), ("inductor", "notes.pt2"), ("later", "x.pt2")])
def test_a_bundle_in_a_format_has_no_files_of_another(format, name, tmp_path, monkeypatch):
    monkeypatch.setitem(SUFFIXES, "later", ".later")
    write(tmp_path / "bundle", format=format)
    monkeypatch.delitem(SUFFIXES, "later")
    (tmp_path / "bundle" / name).write_text("mine")
    before = contents(tmp_path / "bundle")
    with pytest.raises(FileExistsError, match=f"{name}.*; move that away"):
        write(tmp_path / "bundle")
    assert contents(tmp_path / "bundle") == before


def test_a_bundle_from_before_there_were_formats_is_replaced(tmp_path):
    older = entries(1)
    del older["graph_format"]
    manifest.write(tmp_path / "bundle", older, [b"graph"], {"model_card.md": b"card"})
    write(tmp_path / "bundle", version=2)
    assert (tmp_path / "bundle" / "stage-1.onnx").read_bytes() == b"graph 2 1"


@pytest.mark.parametrize("name", ["notes.txt", "stage-0.onnx.data", "stage-x.onnx", "estimator.pt", "stage-0.pt2"])
def test_a_bundle_with_files_of_others_is_refused_and_stays(name, tmp_path):
    write(tmp_path / "bundle")
    (tmp_path / "bundle" / name).write_text("mine")
    before = contents(tmp_path / "bundle")
    for attempt in (manifest.check_replaceable, write):
        with pytest.raises(FileExistsError, match=f"got also {name}; move that away"):
            attempt(tmp_path / "bundle")
    assert contents(tmp_path / "bundle") == before


def test_a_bundle_whose_manifest_was_edited_is_refused_and_stays(tmp_path):
    write(tmp_path / "bundle")
    file = tmp_path / "bundle" / "manifest.json"
    file.write_text(file.read_text().replace('"version": 1', '"version": 9'))
    before = contents(tmp_path / "bundle")
    with pytest.raises(FileExistsError, match="or was changed"):
        write(tmp_path / "bundle", version=2)
    assert contents(tmp_path / "bundle") == before


def test_on_a_full_disk_the_old_bundle_stays_at_whichever_call_it_fails(tmp_path):
    folder = tmp_path / "bundle"
    write(folder)
    before, n, struck = contents(folder), 0, True
    while struck:
        n += 1
        with contextlib.suppress(OSError), faults.at(n, faults.full) as calls:
            write(folder, version=2)
        struck = calls.struck
        now = contents(folder)
        assert now == before or now["stage-0.onnx"] == b"graph 2 0"
        write(folder)
        assert {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")} == {"bundle"}
    assert n > 20


def test_the_manifest_of_a_policy_can_be_written_as_json():
    policy = policy_for(USUAL, "confidence")
    got = manifest.policy_entries(policy)
    assert json.loads(json.dumps(got, allow_nan=False)) == got
    assert got["score"] == "confidence"
    assert got["unit"] == "macs"
    assert got["budget"] == policy.budget
    assert got["thresholds"] == policy.thresholds.tolist()
    assert got["shares"] == policy.shares.tolist()
    assert got["made_for"] == policy.made_for
    assert (got["alternative"], got["portion"], got["promise"], got["sets"]) == (None, 0.0, None, None)


def test_a_mixed_policy_has_its_second_thresholds_and_their_portion():
    policy = policy_for(NESTED, "patience")
    assert policy.alternative is not None
    got = manifest.policy_entries(policy)
    assert got["alternative"] == manifest._numbers(policy.alternative)
    assert 0 < got["portion"] == policy.portion < 1


def test_a_promise_and_thresholds_at_infinity_are_in_the_manifest():
    calibrated = calibrated_for(USUAL)
    with pytest.warns(UserWarning, match="no level guarantees a loss"):  # so few examples that nothing stops early
        policy = suffice.control_risk(calibrated, bundles.labeled(calibrated, 60, 2), max_loss=0.01)
    got = manifest.policy_entries(policy)
    assert json.loads(json.dumps(got, allow_nan=False)) == got
    assert got["promise"] == {"loss": "accuracy", "max_loss": 0.01, "confidence": 0.95}
    assert got["budget"] is None
    assert got["thresholds"] == ["inf"]
    assert manifest._numbers(torch.tensor([-torch.inf, 0.5])) == ["-inf", 0.5]


def test_the_rule_of_prediction_sets_is_in_the_manifest():
    calibrated = calibrated_for(USUAL)
    loader = bundles.labeled(calibrated, 200, 2)
    policy = suffice.conformalize(calibrated, policy_for(USUAL, "confidence"), loader, method="raps", randomized=True)
    got = manifest.policy_entries(policy)["sets"]
    assert json.loads(json.dumps(got, allow_nan=False)) == got
    assert set(got) == {
        *("method", "coverage", "by_exit", "counts", "randomized", "penalty", "unpenalized", "thresholds"),
    }
    assert got["method"] == "raps"
    assert got["randomized"] is True
    assert got["thresholds"] == manifest._numbers(policy.sets.thresholds)


def test_a_manifest_names_every_graph_with_its_digest_inputs_and_outputs(bundle):
    exported = bundle(USUAL)
    got = exported.manifest
    for k, stage in enumerate(got["stages"]):
        payload = (exported.folder / f"stage-{k}.onnx").read_bytes()
        assert (stage["file"], stage["bytes"]) == (f"stage-{k}.onnx", len(payload))
        assert stage["sha256"] == hashlib.sha256(payload).hexdigest()
    assert got["inputs"] == [{"name": "input", "dtype": "float32", "shape": ["N", 3]}] == got["stages"][0]["inputs"]
    assert [output["name"] for output in got["stages"][1]["outputs"]] == ["log_probs", "aleatoric"]
    assert got["stages"][0]["outputs"][-1] == {"name": "score", "dtype": "float64", "shape": ["N"]}
    assert got["costs"] == {"macs": list(exported.calibrated.costs.cumulative), "length": None, "by_length": None}


def test_a_manifest_states_what_was_exported(bundle):
    exported = bundle(USUAL)
    got = exported.manifest
    assert {
        key: got[key] for key in ("format", "format_version", "opset", "kind", "likelihood", "exits", "outputs")
    } == {
        "format": "suffice-bundle",
        "format_version": 1,
        "opset": 20,
        "kind": "classification",
        "likelihood": "classification",
        "exits": 2,
        "outputs": bundles.CLASSES,
    }
    assert got["ensemble"] == "product"
    assert got["padding"] is None
    assert got["quantization"] is None
    assert got["hashes"] == {
        "network": exported.calibrated.network_hash,
        "calibrated": exported.calibrated.digest,
        "policy": manifests.digest(got["policy"]),
    }
    assert set(got["versions"]) == {"torch", "onnx", "onnxscript", "suffice"}


@pytest.mark.parametrize(("setting", "kind", "outputs", "ensemble"), [
    (list(FEW)[2], "classification", 2, "average"),
    (list(FEW)[3], "multilabel", 4, "product"),
    (list(FEW)[4], "regression", 4, "average"),
    (list(FEW)[5], "regression", 2, "false"),
])  # fmt: skip
def test_a_manifest_states_the_kind_and_the_number_of_outputs(setting, kind, outputs, ensemble, bundle):
    got = bundle(setting).manifest
    assert (got["kind"], got["outputs"], got["ensemble"]) == (kind, outputs, ensemble)


def test_names_of_classes_and_preprocessing_are_kept(bundle):
    got = bundle(list(FEW)[1]).manifest
    assert got["class_names"] == ["a", "b", "c", "é"]
    assert got["preprocessing"] == {"mean": [0.5, 0.25], "resize": {"size": 8}}
    assert got["opset"] == 18
