import hashlib
import json

import numpy as np
import pytest

import bundles
from suffice_runtime import Prediction, Runner
from suffice_runtime.bundle import manifest
from suffice_runtime.bundle.manifest import read
from suffice_runtime.triton import repository


def change(folder, place, value):
    """Replace the entry of a manifest at a place, such as ("policy", "thresholds")."""

    def edit(entries):
        for key in place[:-1]:
            entries = entries[key]
        entries[place[-1]] = value

    bundles.edit(folder, edit)


def remove(folder, place):
    def edit(entries):
        for key in place[:-1]:
            entries = entries[key]
        del entries[place[-1]]

    bundles.edit(folder, edit)


def test_all_entries_are_read(copied):
    change(copied, ("policy", "sets"), bundles.SETS)
    change(copied, ("policy", "alternative"), ["-inf", "inf"])
    change(copied, ("preprocessing",), {"mean": [0.5]})
    found = read(copied)
    assert found.kind is Prediction
    assert found.ensemble == "product"
    assert found.class_names == ("cat", "dog", "owl")
    assert found.preprocessing == {"mean": [0.5]}
    assert str(found.inputs[0]) == "input float32 (N, 4)"
    assert [stage.file for stage in found.stages] == ["stage-0.onnx", "stage-1.onnx", "stage-2.onnx"]
    assert found.costs.at(None) == bundles.COSTS
    assert found.policy.thresholds.tolist() == [-0.15, -0.3]
    assert found.policy.alternative.tolist() == [-np.inf, np.inf]
    assert found.policy.sets.counts == (30, 40, 50)
    assert found.opset == 20
    assert found.library == "0.1.0"


def test_columns_have_ranges_of_their_own(copied):
    change(copied, ("inputs", 0, "ranges"), [[2, 7], None, [0, 3], [0, 9]])
    tensor = read(copied).inputs[0]
    assert tensor.ranges == ((2, 7), None, (0, 3), (0, 9))
    assert [tensor.allowed(value) for value in (0, 3, 8)] == [2, 3, 3]


def test_policies_come_in_the_order_of_their_cost(copied):
    full = {**bundles.POLICY, "shares": [0, 0, 1], "expected": 9.0}
    change(copied, ("policies",), [full, {**bundles.POLICY, "shares": [1, 0, 0]}])
    found = read(copied)
    assert [policy.shares.tolist() for policy in found.policies] == [[1, 0, 0], bundles.POLICY["shares"], [0, 0, 1]]
    assert found.policy is found.policies[1]
    macs = np.array(bundles.COSTS)
    assert found.fraction(found.policy) == pytest.approx(macs @ bundles.POLICY["shares"] / macs[-1])
    assert found.fraction(found.policies[-1]) == 1


def test_a_bundle_without_other_policies_has_one_or_none(copied):
    found = read(copied)
    assert len(found.policies) == 1
    assert found.policies[0] is found.policy
    change(copied, ("policy",), None)
    assert read(copied).policies == ()
    change(copied, ("policies",), [bundles.POLICY])
    with pytest.raises(ValueError, match=r"expected policy where there are policies in manifest.json, got None"):
        read(copied)


def test_entries_that_are_not_used_are_ignored(copied):
    change(copied, ("later",), [1, 2])
    change(copied, ("policy", "later"), "x")
    assert read(copied).kind is Prediction


ENTRIES = (
    "format", "format_version", "kind", "exits", "policy", "likelihood", "ensemble", "inputs", "stages", "costs",
    "padding", "class_names", "preprocessing", "opset", "suffice", "hashes", "versions",
)  # fmt: skip


@pytest.mark.parametrize("name", ENTRIES)
def test_a_missing_entry_is_named(copied, name):
    remove(copied, (name,))
    with pytest.raises(ValueError, match=rf"^expected an entry '{name}' in manifest.json, found none; export"):
        read(copied)


@pytest.mark.parametrize("name", sorted(bundles.POLICY))
def test_a_missing_entry_of_the_policy_is_named(copied, name):
    remove(copied, ("policy", name))
    with pytest.raises(ValueError, match=rf"^expected an entry '{name}' in manifest.json: policy, found none"):
        read(copied)


@pytest.mark.parametrize("name", sorted(bundles.SETS))
def test_a_missing_entry_of_the_sets_is_named(copied, name):
    change(copied, ("policy", "sets"), {key: value for key, value in bundles.SETS.items() if key != name})
    with pytest.raises(ValueError, match=rf"^expected an entry '{name}' in manifest.json: policy: sets, found none"):
        read(copied)


@pytest.mark.parametrize("name", ["file", "sha256", "bytes", "inputs", "outputs"])
def test_a_missing_entry_of_a_stage_is_named(copied, name):
    remove(copied, ("stages", 1, name))
    with pytest.raises(ValueError, match=rf"^expected an entry '{name}' in manifest.json: stages\[1\], found none"):
        read(copied)


PROMISE = {"loss": "accuracy", "max_loss": 0.01, "confidence": 0.95}

WRONG = [
    (("format",), "other", r"format as one of \['suffice-bundle'\] in manifest.json, got 'other'"),
    (("format_version",), "1", "format_version as a whole number of at least 1 in manifest.json, got '1'"),
    (("format_version",), 0, "got 0"),
    (("kind",), "ranking", "kind as one of .*, got 'ranking'"),
    (("kind",), ["classification"], "kind as one of .*, got a list"),
    (("exits",), 0, "exits as a whole number of at least 1"),
    (("exits",), True, "exits as a whole number .*, got True"),
    (("exits",), 3.0, "exits as a whole number .*, got 3.0"),
    (("exits",), 2, "thresholds as a list of 1"),
    (("ensemble",), False, r"ensemble as one of \['average', 'product', 'false'\] .*, got False"),
    (("likelihood",), None, "likelihood as a string in manifest.json, got None"),
    (("opset",), -1, "opset as a whole number of at least 1"),
    (("hashes",), [], "hashes as a JSON object in manifest.json, got a list"),
    (("class_names",), ["cat"], "class_names to be 3 names in manifest.json, got 1"),
    (("class_names",), [1, 2, 3], "class_names as a list of strings"),
    (("preprocessing",), "none", "preprocessing as a JSON object"),
    (("padding",), {"mask": "mask"}, r"padding.mask to be one of the inputs of shape \(N, T\), \[\]"),
    (("padding",), {"mask": "input"}, r"padding.mask to be one of the inputs of shape"),
    (("padding",), "mask", "a JSON object at manifest.json: padding, got 'mask'"),
    (("inputs",), [], r"stages\[0\].inputs to be found in the inputs"),
    (("inputs", 0, "name"), "x", r"stages\[0\].inputs to be found in the inputs .*, got input float32 \(N, 4\)"),
    (("inputs", 0, "shape"), [4, "N"], "shape with 'N' as its first axis in manifest.json: inputs.0."),
    (("inputs", 0, "shape"), ["N", 0], "shape as sizes above 0 and names"),
    (("inputs", 0, "shape"), ["N", True], "shape as sizes above 0 and names"),
    (("inputs", 0, "shape"), ["N", "width"], r"inputs to be of fixed sizes or 'T' behind 'N'"),
    (("inputs", 0, "dtype"), "complex64", "dtype as one of .*, got 'complex64'"),
    (("stages",), [], "stages as a list of 3 in manifest.json, got a list"),
    (("stages", 2), "stage-2.onnx", r"a JSON object at manifest.json: stages\[2\], got 'stage-2.onnx'"),
    (("stages", 0, "file"), "../../secret", r"file as one of \['stage-0.onnx'\]"),
    (("stages", 0, "file"), "stage-1.onnx", r"file as one of \['stage-0.onnx'\]"),
    (("stages", 0, "bytes"), 1.5, "bytes as a whole number"),
    (("stages", 0, "outputs"), [], "outputs with different names"),
    (("stages", 1, "inputs", 0, "name"), "state.7", r"stages\[1\].inputs to be found as 'next.state.7' in the outputs"),
    (("stages", 1, "inputs", 0, "dtype"), "float64", r"found as 'next.state.0' in the outputs of stage 0"),
    (("stages", 1, "inputs", 0, "shape"), ["N", 5], r"found as 'next.state.0' in the outputs of stage 0"),
    (("stages", 1, "inputs", 1, "name"), "state.0", "inputs with different names"),
    (("kind",), "regression", r"stages\[0\].outputs to be 'mean' among them"),
    (("costs", "macs"), [3, 2, 4], "macs as cumulative costs, which do not fall"),
    (("costs", "macs"), [1, 2], "macs as a list of 3"),
    (("costs", "macs"), [1, 2, 3.5], "macs as whole numbers of at least 0"),
    (("costs", "length"), "5", "length as a whole number"),
    (("costs", "by_length"), {"T": [1, 2], "macs": []}, "T as a list of 3"),
    (("costs", "by_length"), {"T": [1, 2, 2], "macs": [[1] * 3] * 3}, "T as different lengths"),
    (("costs", "by_length"), {"T": [1, 2, 3], "macs": [[1] * 2] * 3}, "macs as 3 lists of 3 whole numbers"),
    (("policy",), [], "a JSON object at manifest.json: policy, got a list"),
    (("policy", "score"), 3, "score as a string"),
    (("policy", "unit"), "s", r"unit as one of \['macs', 'ms'\]"),
    (("policy", "budget"), None, "budget as null where there is a promise, and nowhere else"),
    (("policy", "budget"), -1.0, "budget as a number from 0 to inf"),
    (("policy", "expected"), "inf", "expected as a number"),
    (("policy", "thresholds"), [0.1], "thresholds as a list of 2"),
    (("policy", "thresholds"), [0.1, "nan"], "thresholds as numbers, 'inf' or '-inf'"),
    (("policy", "thresholds"), [0.1, None], "thresholds as numbers, 'inf' or '-inf'"),
    (("policy", "thresholds"), [0.1, False], "thresholds as numbers, 'inf' or '-inf'"),
    (("policy", "shares"), [0.5, 0.6, -0.1], "shares as shares of at least 0 with a sum of 1"),
    (("policy", "shares"), [0.2, 0.2, 0.2], "shares as shares of at least 0 with a sum of 1"),
    (("policy", "portion"), 1.5, "portion as a number from 0 to 1"),
    (("policy", "portion"), 0.5, "alternative as thresholds for the portion 0.5"),
    (("policy", "alternative"), [0.5], "alternative as a list of 2"),
    (("policy", "promise"), PROMISE, "budget as null where there is a promise, and nowhere else"),
    (("policy", "promise"), {**PROMISE, "loss": "nll"}, "loss as one of"),
    (("policy", "promise"), {**PROMISE, "confidence": 2}, "confidence as a number from 0 to 1"),
    (("policy", "sets"), {**bundles.SETS, "method": "interval"}, "policy.sets.method as a method for a classification"),
    (("inputs", 0, "ranges"), [[0, 4]], "ranges as a list of 4, one range for each column, and no range"),
    (("inputs", 0, "ranges"), [[0, 4], None, [3, 2], None], "ranges as pairs of integers in rising order, or null"),
    (("policies",), [{**bundles.POLICY, "score": "entropy"}], r"policies\[0\].score as 'confidence', that of the"),
    (
        ("policies",),
        [{**bundles.POLICY, "thresholds": []}],
        r"thresholds as a list of 2 in manifest.json: policies\[0\]",
    ),
    (("policy", "sets"), {**bundles.SETS, "coverage": 1.2}, "coverage as a number from 0 to 1"),
    (("policy", "sets"), {**bundles.SETS, "randomized": 1}, "randomized as true or false"),
    (("policy", "sets"), {**bundles.SETS, "thresholds": [-1, 0, 0]}, "thresholds as numbers of at least 0"),
    (("policy", "sets"), {**bundles.SETS, "counts": [1, 2]}, "counts as a list of 3"),
]


@pytest.mark.parametrize(("place", "value", "message"), WRONG, ids=[f"{a[0]}-{i}" for i, (a, _, _) in enumerate(WRONG)])
def test_a_wrong_entry_is_refused_by_its_name(copied, place, value, message):
    change(copied, place, value)
    with pytest.raises(ValueError, match=f"^expected .*{message}"):
        read(copied)


def test_a_promise_takes_the_place_of_a_budget(copied):
    change(copied, ("policy", "promise"), PROMISE)
    change(copied, ("policy", "budget"), None)
    policy = read(copied).policy
    assert policy.promise.max_loss == 0.01
    assert np.isnan(policy.budget)


def test_a_bundle_of_programs_of_torch_is_refused_by_its_format(copied):
    def edit(entries):
        entries.update(graph_format="torch", opset=None)
        for k, stage in enumerate(entries["stages"]):
            (copied / stage["file"]).rename(copied / f"stage-{k}.pt2")
            stage["file"] = f"stage-{k}.pt2"

    bundles.edit(copied, edit)
    message = r"expected ONNX graphs, got format 'torch' in manifest.json; export again with format='onnx', or run"
    for refused in (read, Runner, lambda folder: repository.write(folder, folder / "models", "digits")):
        with pytest.raises(ValueError, match=message):
            refused(copied)


def test_a_bundle_that_names_its_format_or_not_is_read(copied):
    change(copied, ("graph_format",), "onnx")
    assert read(copied).kind is Prediction
    remove(copied, ("graph_format",))
    assert read(copied).kind is Prediction


def test_a_newer_format_says_to_upgrade(copied):
    change(copied, ("format_version",), 2)
    change(copied, ("suffice",), "0.9")
    with pytest.raises(
        ValueError, match=r"format version 1 or earlier, got version 2, written by suffice 0.9; upgrade"
    ):
        read(copied)


@pytest.mark.parametrize("missing", ["nowhere", "nowhere/deeper", "bundle/stage-0.onnx"])
def test_a_folder_without_a_manifest_is_no_bundle(copied, missing):
    with pytest.raises(
        FileNotFoundError, match=r"expected a bundle with manifest.json, found none at .*suffice.export"
    ):
        read(copied.parent / missing)


def signed(entries):
    """Return entries with their checksum, as suffice writes it."""
    digest = hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()
    return {**entries, "manifest_sha256": digest}


def test_a_manifest_that_was_changed_is_refused_unless_that_is_asked_for(copied):
    file = copied / manifest.FILE
    file.write_text(json.dumps(signed(json.loads(file.read_text()))))
    assert read(copied).policy.portion == 0
    change(copied, ("policy", "thresholds"), [0.0, 0.0])
    with pytest.raises(ValueError, match=r"expected manifest.json as it was written, got one that was changed"):
        read(copied)
    assert read(copied, check=False).policy.thresholds.tolist() == [0, 0]


HOSTILE = {
    "empty": b"",
    "list": b"[1, 2]",
    "number": b"7",
    "cut": b'{"format": "suffice-bun',
    "not UTF-8": b'{"format": "\xff\xfe"}',
    "deep": b"[" * 200_000,
    "pickle": b"\x80\x04\x95\x10\x00\x00\x00",
}


@pytest.mark.parametrize("payload", HOSTILE.values(), ids=HOSTILE)
def test_what_is_no_json_object_is_a_value_error(tmp_path, payload):
    (tmp_path / manifest.FILE).write_bytes(payload)
    with pytest.raises(ValueError, match=r"^expected (JSON in|a JSON object at) .*manifest.json"):
        read(tmp_path)


def test_a_manifest_of_any_size_is_not_read_into_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("suffice_runtime.bundle.entries.MAX_BYTES", 1000)
    (tmp_path / manifest.FILE).write_text("{" + " " * 1000 + "}")
    with pytest.raises(ValueError, match=r"expected at most 1,000 bytes in .*, got more"):
        read(tmp_path)


@pytest.mark.parametrize("value", [10**400, -(10**400), float("nan")], ids=["huge", "negative", "nan"])
@pytest.mark.parametrize("place", [("policy", "expected"), ("policy", "thresholds", 0), ("costs", "macs", 2)])
def test_numbers_beyond_all_types_are_refused(copied, place, value):
    change(copied, place, value)
    name = next(part for part in reversed(place) if isinstance(part, str))
    with pytest.raises(ValueError, match=f"^expected {name} as"):
        read(copied)


def test_messages_hold_no_control_characters(copied):
    change(copied, ("kind",), "\x1b[2J\nsecond line\u202e")
    with pytest.raises(ValueError, match="kind as one of") as caught:
        read(copied)
    assert str(caught.value).isprintable()
