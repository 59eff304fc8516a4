import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest

import bundles
from suffice_runtime import cli

X = bundles.inputs(150)


@pytest.fixture
def source(tmp_path):
    file = tmp_path / "x.npy"
    np.save(file, X)
    return file


def run(bundle, source, output, *more):
    return cli.main(["run", str(bundle), "--input", str(source), "--output", str(output), *more])


def test_arrays_are_those_of_the_answer(written, runner, source, tmp_path):
    assert run(written(), source, tmp_path / "a.npz", "--batch-size", "150") == 0
    answer, found = runner.run(X), np.load(tmp_path / "a.npz")
    for name in ("exit", "macs", "label", "confidence", "entropy", "aleatoric", "epistemic", "probs", "scores"):
        assert found[name].tobytes() == getattr(answer, name).tobytes()
    assert found["class_names"].tolist() == ["cat", "dog", "owl"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "x.npy"]  # no temporary files


@pytest.mark.parametrize("size", [1, 7, 64])
def test_answers_do_not_depend_on_the_batch_size(written, runner, source, tmp_path, size):
    assert run(written(), source, tmp_path / "a.npz", "--batch-size", str(size)) == 0
    answer, found = runner.run(X), np.load(tmp_path / "a.npz")
    assert found["exit"].tolist() == answer.exit.tolist()
    np.testing.assert_allclose(found["probs"], answer.probs, atol=1e-5, rtol=0)


def test_a_table_has_a_line_for_each_example(opened, written, source, tmp_path):
    bundle = written(sets=bundles.SETS)
    assert run(bundle, source, tmp_path / "a.csv", "--batch-size", "150") == 0
    with (tmp_path / "a.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    answer = opened(sets=bundles.SETS).run(X)
    assert len(rows) == 150
    assert [int(row["exit"]) for row in rows] == answer.exit.tolist()
    assert [float(row["probs.owl"]) for row in rows] == answer.probs[:, 2].tolist()
    assert [row["set.dog"] == "True" for row in rows] == answer.set.members[:, 1].tolist()
    assert [row["scores.1"] == "" for row in rows] == np.isnan(answer.scores[:, 1]).tolist()


def test_records_hold_no_nan_and_sets_by_label(opened, written, source, tmp_path):
    bundle = written(sets=bundles.SETS)
    assert run(bundle, source, tmp_path / "a.json", "--batch-size", "150") == 0
    found = json.loads((tmp_path / "a.json").read_text(), parse_constant=pytest.fail)
    answer = opened(sets=bundles.SETS).run(X)
    assert found["class_names"] == ["cat", "dog", "owl"]
    assert [record["set"] for record in found["answers"]] == answer.set.labels()
    assert [record["probs"] for record in found["answers"]] == answer.probs.tolist()
    expected = [[None if np.isnan(value) else value for value in row] for row in answer.scores.tolist()]
    assert [record["scores"] for record in found["answers"]] == expected


@pytest.mark.parametrize("ending", ["npz", "csv", "json"])
def test_numbers_with_infinite_intervals(written, source, tmp_path, ending):
    rule = {**bundles.SETS, "method": "interval", "randomized": False, "thresholds": [1.0, 2.0, "inf"]}
    assert run(written("regression", sets=rule), source, tmp_path / f"a.{ending}") == 0
    if ending == "json":
        records = json.loads((tmp_path / "a.json").read_text(), parse_constant=pytest.fail)["answers"]
        assert {record["set_high"][0] for record in records if record["exit"] == 2} == {"inf"}
    elif ending == "csv":
        assert "set_low.0" in (tmp_path / "a.csv").read_text().partition("\n")[0]
    else:
        assert np.load(tmp_path / "a.npz")["variance"].shape == (150, 3)


def test_several_labels(written, source, tmp_path):
    assert run(written("multilabel"), source, tmp_path / "a.csv") == 0
    assert "label.0,label.1,label.2,confidence" in (tmp_path / "a.csv").read_text()


def test_several_inputs_come_from_one_archive(written, opened, tmp_path):
    x = bundles.texts(20, 5)
    np.savez(tmp_path / "x.npz", **x)
    assert run(written(tokens=True), tmp_path / "x.npz", tmp_path / "a.npz", "--batch-size", "20") == 0
    assert np.load(tmp_path / "a.npz")["probs"].tobytes() == opened(tokens=True).run(x).probs.tobytes()


@pytest.mark.parametrize("ending", ["npz", "csv", "json"])
def test_no_examples_have_an_output_too(written, tmp_path, ending):
    np.save(tmp_path / "x.npy", X[:0])
    assert run(written(), tmp_path / "x.npy", tmp_path / f"a.{ending}") == 0
    assert (tmp_path / f"a.{ending}").stat().st_size


def test_an_output_that_is_there_is_not_replaced_without_force(written, source, tmp_path, capsys):
    output = tmp_path / "a.csv"
    output.write_text("mine")
    assert run(written(), source, output) == 1
    assert output.read_text() == "mine"
    assert "pass --force to replace it" in capsys.readouterr().err
    assert run(written(), source, output, "--force") == 0
    assert output.read_text().startswith("exit,macs,label")


def test_a_failed_write_leaves_the_old_output_and_no_other_file(written, source, tmp_path, monkeypatch, capsys):
    output = tmp_path / "a.npz"
    output.write_text("mine")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    assert run(written(), source, output, "--force") == 1
    assert "No space left on device" in capsys.readouterr().err
    assert output.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "x.npy"]


def test_an_example_that_is_not_finite_is_named_by_its_row(written, tmp_path, capsys):
    bad = X.copy()
    bad[131, 0] = np.inf
    np.save(tmp_path / "x.npy", bad)
    assert run(written(), tmp_path / "x.npy", tmp_path / "a.csv", "--batch-size", "10") == 1
    assert "NaN or infinity at position 131" in capsys.readouterr().err
    assert not (tmp_path / "a.csv").exists()


WRONG = {
    "pickle": (np.array([{}], dtype=object), "expected arrays of numbers as numpy.save"),
    "type": (X.astype(np.float64), "expected float32 for the input 'input', got float64"),
    "shape": (X[:, :3], "expected input float32 (N, 4) as an input, got shape (64, 3)"),
    "single number": (np.float32(3), "expected input float32 (N, 4) as an input, got shape ()"),
}


@pytest.mark.parametrize(("x", "message"), WRONG.values(), ids=WRONG)
def test_wrong_inputs_are_errors(written, tmp_path, capsys, x, message):
    np.save(tmp_path / "x.npy", x, allow_pickle=True)
    assert run(written(), tmp_path / "x.npy", tmp_path / "a.csv") == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "a.csv").exists()


@pytest.mark.parametrize("payload", [b"", b"no array", b"PK\x03\x04 cut"])
def test_damaged_files_are_errors(written, tmp_path, capsys, payload):
    (tmp_path / "x.npz").write_bytes(payload)
    assert run(written(), tmp_path / "x.npz", tmp_path / "a.csv") == 1
    assert "expected arrays of numbers as numpy.save and numpy.savez write them" in capsys.readouterr().err


def test_inputs_with_different_numbers_of_rows_are_refused(written, tmp_path, capsys):
    x = bundles.texts(40, 5)
    np.savez(tmp_path / "x.npz", **{**x, "attention_mask": x["attention_mask"][:20]})
    assert run(written(tokens=True), tmp_path / "x.npz", tmp_path / "a.csv", "--batch-size", "20") == 1
    assert "with 40 rows as the other inputs" in capsys.readouterr().err


def test_missing_files_and_folders_are_errors(written, source, tmp_path, capsys):
    assert run(written(), tmp_path / "none.npy", tmp_path / "a.csv") == 1
    assert run(tmp_path / "none", source, tmp_path / "a.csv") == 1
    assert run(written(), source, tmp_path / "none" / "a.csv") == 1
    assert cli.main(["info", str(tmp_path)]) == 1
    errors = capsys.readouterr().err
    assert errors.count("error: expected ") == 4
    assert f"expected a file of inputs, found none at {tmp_path}/none.npy" in errors


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["serve"],
        ["run", "bundle"],
        ["run", "bundle", "--input", "x.csv", "--output", "a.csv"],
        ["run", "bundle", "--input", "x.npy", "--output", "a.txt"],
        ["run", "bundle", "--input", "x.npy", "--output", "a.csv", "--batch-size", "0"],
        ["run", "bundle", "--input", "x.npy", "--output", "a.csv", "--threads", "two"],
    ],
)
def test_bad_usage_has_the_status_two(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert "usage: suffice-runtime" in capsys.readouterr().err


def test_a_bundle_is_described_in_80_columns(written, tmp_path, capsys):
    sets = {"sets": bundles.SETS, **{key: bundles.MIXED[key] for key in ("alternative", "portion")}}
    named = bundles.write(
        tmp_path, class_names=["a long name of a class " * 4, "\x1b[31mred", "c"], preprocessing={"mean": [0.5] * 40}
    )
    promised = written(budget=None, promise={"loss": "brier", "max_loss": 0.02, "confidence": 0.95})
    for bundle in (written(), written(**sets), written(tokens=True), written("regression"), named, promised):
        assert cli.main(["info", str(bundle)]) == 0
        output = capsys.readouterr().out
        assert max(map(len, output.splitlines())) <= 80
        assert output.replace("\n", "").isprintable()
        assert "4,500" in output


def test_a_description_names_what_a_user_needs(written, capsys):
    assert cli.main(["info", str(written())]) == 0
    output = capsys.readouterr().out
    for part in ("classification: cat, dog, owl", "input float32 (N, 4)", "budget of 2,500 macs", "suffice 0.1.0"):
        assert part in output
    rows = [line.split() for line in output.splitlines()[-3:]]
    assert [row[3] for row in rows] == ["1,000", "2,500", "4,500"]
    assert [row[4] for row in rows] == ["25.0%", "35.0%", "40.0%"]
    assert [row[5] for row in rows] == ["-0.15", "-0.3", "(all"]


def test_a_bundle_without_a_policy_is_described(tmp_path, capsys):
    assert cli.main(["info", str(bundles.write(tmp_path, policy=None))]) == 0
    assert "none; predictions of every exit only" in capsys.readouterr().out


def test_the_module_is_a_command(written):
    command = [sys.executable, "-m", "suffice_runtime.cli", "info", str(written())]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.startswith("bundle        ")
