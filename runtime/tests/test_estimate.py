"""Estimates of the variation, compared with the same arithmetic in NumPy, and warnings about inputs outside."""

import json
import math
import shutil
import warnings
from fractions import Fraction

import numpy as np
import pytest

import bundles
from suffice_runtime import Estimate, Runner, cli
from suffice_runtime import estimate as estimating

X = bundles.inputs(50) / 2  # all closer than LIMIT
FAR = np.concatenate([X, 100 * X[:1]])


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Return the folders of a bundle with an estimator beside the stages, and of an estimator alone; do not change."""
    return {alone: bundles.write_estimator(tmp_path_factory.mktemp("estimator") / "bundle", alone) for alone in (0, 1)}


@pytest.fixture(scope="session", params=[0, 1], ids=["beside", "alone"])
def runner(request, folders):
    return Runner(folders[request.param])


@pytest.fixture(scope="session")
def alone(folders):
    return Runner(folders[1])


@pytest.mark.parametrize("n", [1, 7, 50])
def test_an_estimate_is_that_of_the_graph(runner, n):
    found, (output, variation, distance) = runner.estimate(X[:n]), bundles.estimated(X[:n])
    assert len(found) == n
    np.testing.assert_allclose(found.output, output, atol=1e-5, rtol=0)  # sums of four products below 10
    np.testing.assert_allclose(found.variation, variation, atol=1e-6, rtol=0)
    np.testing.assert_allclose(found.distance, distance, atol=1e-6, rtol=0)
    assert not found.outside.any()
    assert found.variation.dtype == np.float32
    assert repr(found).startswith(f"Estimate({n} examples, mean variation {variation.mean():.3g}, 0 outside)")


def test_no_examples_have_an_empty_estimate(runner):
    found = runner.estimate(X[:0])
    assert (found.output.shape, found.variation.shape, found.outside.shape) == ((0, 3), (0,), (0,))
    assert repr(found) == "Estimate(0 examples, 0 outside)"


def test_the_answers_beside_an_estimator_are_those_without_one(folders, written):
    ours, theirs = (Runner(folder).run(X) for folder in (folders[0], written()))
    assert ours.probs.tobytes() == theirs.probs.tobytes()


def test_a_bundle_without_an_estimator_is_refused_by_name(opened):
    with pytest.raises(ValueError, match="expected a bundle with a variation estimator, got one without; export with"):
        opened().estimate(X)


@pytest.mark.parametrize(
    "call",
    [
        lambda runner: runner.run(X),
        lambda runner: runner.predict(X),
        lambda runner: runner.anytime(X),
        lambda runner: runner.run_stream([X]),
        lambda runner: runner.policy,
    ],
    ids=["run", "predict", "anytime", "run_stream", "policy"],
)
def test_an_estimator_alone_has_no_exits(alone, call):
    with pytest.raises(ValueError, match=r"a bundle of a calibrated network, got one of an estimator alone; use est"):
        call(alone)


def test_a_runner_of_an_estimator_describes_itself(alone):
    assert repr(alone) == "Runner(estimator, input float32 (N, 4))"


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (X.astype(np.float64), TypeError, "float32 for the input 'input', got float64"),
        (X[:, :3], ValueError, r"input float32 \(N, 4\) as an input, got shape \(50, 3\)"),
        (np.where(np.arange(50)[:, None] == 7, np.nan, X).astype(np.float32), ValueError, "'input', .* position 7 "),
        (
            X * np.float32(1e38),
            ValueError,
            r"in the 'output' of the estimator, got NaN or infinity at position",
        ),
    ],
    ids=["type", "shape", "NaN", "overflow"],
)
def test_inputs_that_cannot_be_estimated_are_refused(runner, x, error, message):
    with pytest.raises(error, match=message):
        runner.estimate(x)


def test_a_warning_counts_the_inputs_outside(runner):
    with pytest.warns(UserWarning, match=r"^1 of 51 inputs are outside what .* estimate\(x\)\.outside marks them$"):
        found = runner.estimate(FAR)
    assert found.outside.nonzero()[0].tolist() == [50]


@pytest.mark.parametrize(
    ("distance", "warns"),
    [
        (np.array([1.5]), False),
        (np.array([2.5]), True),
        (np.array([np.nan]), True),
        (np.full(4, 1.5), False),  # P(4 of 4) = 0.05⁴ = 6e-6
        (np.full(5, 1.5), True),  # 3e-7
        (np.r_[np.full(10, 1.5), np.zeros(90)], False),
        (np.r_[np.full(20, 1.5), np.zeros(80)], True),
        (np.zeros(9), False),
        (np.zeros(0), False),
    ],
)
def test_a_warning_needs_a_far_input_or_more_outside_than_chance_allows(distance, warns):
    assert (estimating.warning([distance]) is not None) == warns
    assert (estimating.warning([distance, distance[:0]]) is not None) == warns


@pytest.mark.parametrize(("least", "trials"), [(1, 1), (1, 7), (3, 7), (7, 7), (5, 60), (30, 60)])
def test_the_tail_of_a_binomial_is_the_exact_sum(least, trials):
    p = Fraction(1, 20)
    exact = sum(math.comb(trials, i) * p**i * (1 - p) ** (trials - i) for i in range(least, trials + 1))
    assert estimating.binomial_tail(least, trials, 0.05) == pytest.approx(float(exact), rel=1e-12)


def test_an_output_is_an_array_a_list_or_a_mapping():
    numbers = {name: np.zeros(2) for name in ("variation", "clipped", "distance")}
    a, b = np.ones((2, 3)), np.ones((2, 4))
    assert Estimate.of({"output": a, **numbers}).output is a
    found = Estimate.of({"output.0": a, "output.1": b, **numbers}).output
    assert isinstance(found, list)
    assert [array.shape for array in found] == [(2, 3), (2, 4)]
    found = Estimate.of({"output.logits": a, "output.hidden.0": b, **numbers}).output
    assert list(found) == ["logits", "hidden.0"]


def changed(folders, tmp_path, edit, alone=0):
    folder = shutil.copytree(folders[alone], tmp_path / "bundle")
    bundles.edit(folder, edit)
    return folder


@pytest.mark.parametrize("name", ["file", "sha256", "bytes", "inputs", "outputs", "target", "teacher", "quality"])
def test_a_missing_entry_of_the_estimator_is_named(folders, tmp_path, name):
    folder = changed(folders, tmp_path, lambda manifest: manifest["estimator"].pop(name))
    with pytest.raises(ValueError, match=f"expected an entry '{name}' in manifest.json: estimator, found none"):
        Runner(folder)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"file": "../estimator.onnx"}, r"file as one of \['estimator.onnx'\]"),
        ({"inputs": []}, "inputs with different names"),
        ({"inputs": [{"name": "input", "dtype": "float32", "shape": ["N", 5]}]}, r"as \['input float32 \(N, 4\)'\]"),
        ({"outputs": [{"name": "variation", "dtype": "float32", "shape": ["N"]}]}, "outputs with 'clipped'"),
        ({"quality": {"r_squared": "high"}}, "r_squared as a number"),
        ({"teacher": {"name": 3}}, "name as a string"),
    ],
)
def test_a_wrong_entry_of_the_estimator_is_refused(folders, tmp_path, entries, message):
    folder = changed(folders, tmp_path, lambda manifest: manifest["estimator"].update(entries))
    with pytest.raises(ValueError, match=message):
        Runner(folder)


def test_an_estimator_without_an_output_is_refused(folders, tmp_path):
    folder = changed(folders, tmp_path, lambda manifest: manifest["estimator"]["outputs"].pop(0))
    with pytest.raises(ValueError, match=r"outputs with 'output' in manifest\.json: estimator"):
        Runner(folder)


@pytest.mark.parametrize(
    "edit",
    [
        lambda manifest: manifest.update(estimator=None),
        lambda manifest: manifest.pop("estimator"),
        lambda manifest: manifest.update(exits=1),
    ],
    ids=["null", "missing", "exits"],
)
def test_a_bundle_of_an_estimator_has_one_and_no_exits(folders, tmp_path, edit):
    with pytest.raises(ValueError, match=r"expected kind for a network with exits in manifest\.json, got 'estim"):
        Runner(changed(folders, tmp_path, edit, alone=1))


def test_a_damaged_graph_is_found_by_its_checksum(folders, tmp_path):
    folder = shutil.copytree(folders[0], tmp_path / "bundle")
    (folder / "estimator.onnx").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"expected estimator.onnx of [\d,]+ bytes with checksum"):
        Runner(folder)


def run(folder, x, output):
    np.save(output.parent / "x.npy", x)
    return cli.main(["run", str(folder), "--input", str(output.parent / "x.npy"), "--output", str(output)])


def test_the_command_writes_variation_and_distance_beside_the_answers(folders, tmp_path, capsys):
    x = np.tile(X, (3, 1))
    assert run(folders[0], x, tmp_path / "a.npz") == 0
    found, estimate = np.load(tmp_path / "a.npz"), Runner(folders[0]).estimate(x)
    assert found["variation"].tobytes() == estimate.variation.tobytes()
    assert found["distance"].tobytes() == estimate.distance.tobytes()
    assert found["exit"].tolist() == Runner(folders[0]).run(x).exit.tolist()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("ending", ["npz", "csv", "json"])
def test_the_command_writes_the_output_of_an_estimator_alone(folders, tmp_path, ending, capsys):
    assert run(folders[1], FAR, tmp_path / f"a.{ending}") == 0
    assert capsys.readouterr().err.startswith("warning: 1 of 51 inputs are outside")
    text = (tmp_path / f"a.{ending}").read_text() if ending != "npz" else ""
    if ending == "csv":
        assert text.startswith("output.cat,output.dog,output.owl,variation,distance\n")
    elif ending == "json":
        assert list(json.loads(text)["answers"][0]) == ["output", "variation", "distance"]
    else:
        np.testing.assert_allclose(np.load(tmp_path / "a.npz")["variation"], bundles.estimated(FAR)[1], atol=1e-5)


def test_the_command_writes_the_outputs_of_several_places(folders):
    numbers = {name: np.zeros(2) for name in ("variation", "clipped", "distance")}
    found = Estimate.of({"output.0": np.ones((2, 3)), "output.1": np.ones((2, 4)), **numbers})
    assert list(cli.saving.output_columns(found)) == ["output.0", "output.1"]


def test_the_command_names_the_row_that_is_not_finite(folders, tmp_path, capsys):
    x = np.tile(X, (3, 1))
    x[131, 0] = np.inf
    assert run(folders[1], x, tmp_path / "a.csv") == 1
    assert "NaN or infinity at position 131" in capsys.readouterr().err
    assert run(folders[1], X[:0], tmp_path / "b.csv") == 0


def test_a_description_names_the_estimator(folders, capsys):
    for alone in (0, 1):
        assert cli.main(["info", str(folders[alone])]) == 0
        output = capsys.readouterr().out
        assert "estimator     estimator.onnx, " in output
        assert "std that MCDropout measures; R² 0.750 on held-out data" in " ".join(output.split())
        assert ("policy" in output, "multiply-adds" in output) == (not alone, not alone)
        assert max(map(len, output.splitlines())) <= 80
    assert "model         output (classification): cat, dog, owl" in output


def test_a_bundle_may_be_opened_and_estimate_without_a_warning(alone):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        alone.estimate(X)
