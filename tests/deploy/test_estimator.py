"""The graph of an estimator gives its estimates, and what cannot be exported is refused before anything is written."""

import hashlib
import json
import shutil
import warnings
from functools import cache, partial

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

import suffice
from suffice.utils.nest import tree_leaves
from suffice.variation.estimator import EXPECTED, Estimate, _is_surprising
from suffice_runtime import Runner
from suffice_runtime import estimate as runtime_estimate
from tests.deploy import estimators, models
from tests.deploy.bundles import shared_folder
from tests.deploy.estimators import FAST, SLOW
from tests.variation import fits

pytestmark = pytest.mark.filterwarnings(
    "ignore:.* of .* inputs are outside", "ignore:expected outputs that differ", "ignore:.*torch.jit"
)
CASES = pytest.mark.parametrize("name", [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Return a function that exports the estimator of a case once, alone, and returns its folder."""

    @cache
    def exported(name):
        write = partial(suffice.export, estimators.estimator(name), example={**FAST, **SLOW}[name].inputs(2, seed=5))
        return shared_folder(tmp_path_factory, f"estimator-{name}", write)

    return exported


@pytest.fixture(scope="session")
def runner(folders):
    """Return a function that opens the bundle of a case."""
    return lambda name: Runner(folders(name))


@pytest.fixture(scope="session")
def manifest(folders):
    """Return a function that reads the manifest of a case."""
    return lambda name: json.loads((folders(name) / "manifest.json").read_text())


def arrays(x):
    return x.numpy() if isinstance(x, Tensor) else {name: tensor.numpy() for name, tensor in x.items()}


def assert_close(runner, estimator, x):
    found, expected = runner.estimate(arrays(x)), estimator.estimate(x)
    allowed = estimators.tolerances(estimator, x)
    ours = [*tree_leaves(found.output), found.variation, found.distance]
    assert len(ours) == len(allowed)
    for got, wanted, atol in zip(ours, estimators.flat(expected), allowed, strict=True):
        assert got.dtype == np.float32
        torch.testing.assert_close(torch.from_numpy(got), wanted, atol=atol, rtol=0)
    near = expected.distance.sub(1).abs() <= allowed[-1]
    assert (torch.from_numpy(found.outside) == expected.outside)[~near].all()
    return found, expected


@CASES
def test_a_runner_estimates_what_the_estimator_does_for_any_number_of_examples(name, runner):
    inputs = {**FAST, **SLOW}[name].inputs
    for count in (7, 1):
        found, expected = assert_close(runner(name), estimators.estimator(name), inputs(count, seed=3))
        assert len(found) == count
        np.testing.assert_allclose(found.clipped, expected.clipped, atol=1e-6)  # a count over the number of features


@CASES
def test_the_tolerance_is_far_below_the_differences_of_estimates(name):
    case, estimator = {**FAST, **SLOW}[name], estimators.estimator(name)
    x = case.inputs(60, seed=4)
    *outputs, variation, distance = estimators.tolerances(estimator, x)
    estimate = estimator.estimate(x)
    assert variation < 0.01 * float(estimate.variation.std())
    assert distance < 0.05 * float(estimate.distance.std())
    assert max(outputs) < 1e-3


@pytest.mark.parametrize(("count", "tokens"), [(2, models.TOKENS), (5, 6), (1, 14), (4, 3)])
def test_texts_of_any_length_beside_a_calibrated_network(count, tokens, text_bundle):
    runner, x = Runner(text_bundle.folder), models.texts(count, tokens, seed=tokens)
    found, _ = assert_close(runner, estimators.text_estimator(), x)
    assert [output.shape for output in found.output] == [(count, models.CLASSES)] * 2  # of both exits
    assert runner.run(arrays(x)).probs.shape == (count, models.CLASSES)


def test_padding_does_not_change_an_estimate(text_bundle):
    runner, x = Runner(text_bundle.folder), arrays(models.texts(5, 6, seed=1))
    padded = {name: np.pad(values, ((0, 0), (0, 7))) for name, values in x.items()}
    allowed = estimators.tolerances(estimators.text_estimator(), models.texts(5, 6, seed=1))
    difference = abs(runner.estimate(padded).variation - runner.estimate(x).variation)
    assert difference.max() <= allowed[-2]


def test_the_output_is_a_mapping_or_an_array_as_the_model_returns_it(runner):
    x = estimators.images(4)
    found = runner("functions and an ensemble").estimate(x.numpy())
    assert {name: array.shape for name, array in found.output.items()} == {"logits": (4, 3), "hidden": (4, 6)}
    assert runner("output of an object").estimate(fits.rows(4).numpy()).output.shape == (4, 1)


def test_a_manifest_states_what_the_estimator_is(manifest):
    got = manifest("margins and strengths")
    estimator = estimators.estimator("margins and strengths")
    assert (got["kind"], got["exits"], got["stages"], got["policy"]) == ("estimator", 0, [], None)
    assert (got["outputs"], got["likelihood"]) == (4, "classification")
    assert got["hashes"] == {"network": estimator.network_hash, "calibrated": None, "policy": None}
    entry = got["estimator"]
    assert entry["inputs"] == got["inputs"] == [{"name": "input", "dtype": "float32", "shape": ["N", 3]}]
    assert [(value["name"], value["shape"]) for value in entry["outputs"]] == [
        ("output", ["N", 4]),
        *((name, ["N"]) for name in ("variation", "clipped", "distance")),
    ]
    assert (entry["target"], entry["passes"], entry["layers"]) == ("std", 6, ["<margins>", "1"])
    assert (entry["macs"], entry["network"]) == (estimator.macs, estimator.network_hash)
    assert entry["teacher"]["name"] == "MCDropout"
    assert entry["teacher"]["passes"] == 6
    assert entry["quality"] == {name: getattr(estimator.quality, name) for name in ("r_squared", "log_error")}
    assert manifest("functions and an ensemble")["estimator"]["teacher"] == {"name": "EnsembleTeacher"}


def test_a_bundle_of_both_has_the_graph_and_its_entry_beside_the_stages(text_bundle):
    files = {path.name for path in text_bundle.folder.iterdir()}
    assert files == {"manifest.json", "model_card.md", "stage-0.onnx", "stage-1.onnx", "estimator.onnx"}
    manifest = text_bundle.manifest
    payload = (text_bundle.folder / "estimator.onnx").read_bytes()
    assert manifest["estimator"]["sha256"] == hashlib.sha256(payload).hexdigest()
    assert manifest["estimator"]["inputs"] == manifest["stages"][0]["inputs"]
    assert manifest["kind"] == "classification"
    assert "estimator.onnx (" in (text_bundle.folder / "model_card.md").read_text()
    for found in (b".py", b"/site-packages", b"suffice", b"stack_trace"):
        assert found not in payload, found


def test_a_bundle_of_an_estimator_is_replaced_as_any_other(folders, tmp_path):
    estimator, folder = estimators.estimator("output of an object"), tmp_path / "bundle"
    shutil.copytree(folders("labels"), folder)
    suffice.export(estimator, folder, example=fits.rows(2), class_names=["click"])
    assert {path.name for path in folder.iterdir()} == {"manifest.json", "model_card.md", "estimator.onnx"}
    card = (folder / "model_card.md").read_text()
    assert "A model (1 outputs, likelihood 'binary') with an estimate of its variation" in card
    assert "Classes: click." in card
    assert "| exit |" not in card
    assert Runner(folder).manifest.class_names == ("click",)


def test_a_model_is_as_it_was_after_an_export(folders):
    folders("margins and strengths")
    estimator = estimators.estimator("margins and strengths")
    estimator.check_weights()
    assert all(not module._forward_hooks for module in estimator.model.modules())


def exported(folder, *args, **options):
    suffice.export(*args, folder=folder / "bundle", **options)


@pytest.fixture
def folder(tmp_path):
    """Return a folder in which `export` may not write."""
    yield tmp_path
    assert list(tmp_path.iterdir()) == []


class Branching(nn.Module):
    def forward(self, x):
        return -x if x.abs().max() > 100 else x


def test_a_model_that_branches_on_values_is_refused_with_the_line(folder):
    estimator = fits.fit(nn.Sequential(Branching(), *fits.tower()))
    with pytest.raises(ValueError, match=r"expected the estimator to be one graph .* test_estimator.py:\d+ \(return"):
        exported(folder, estimator, example=fits.rows(2))


class Total(nn.Module):
    """Model whose output has a number that belongs to no example."""

    def __init__(self):
        super().__init__()
        self.model = fits.tower()

    def forward(self, distance):
        logits = self.model(distance)
        return logits, logits.sum()


def test_an_output_without_a_row_for_each_example_is_refused_by_its_name(folder):
    with pytest.raises(ValueError, match=r"output of the estimator's model: expected 'output\.1' with one row"):
        exported(folder, fits.fit(Total(), layers=[]), example=fits.rows(2))


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = fits.tower()

    def forward(self, distance):
        return self.model(distance)


def test_an_input_with_the_name_of_an_output_is_refused(folder):
    train, val = {"distance": fits.rows(64)}, {"distance": fits.rows(32, seed=1)}
    estimator = suffice.fit_variation(Named(), [train], [val], teacher=fits.TEACHER, epochs=1, hidden=(4,))
    with pytest.raises(ValueError, match="inputs with other names than outputs, got 'distance'; rename the key"):
        exported(folder, estimator, example=train)


def test_the_runtime_warns_about_the_inputs_that_the_library_warns_about():
    generator = np.random.default_rng(0)
    shared = {True: 0, False: 0}
    for _ in range(300):
        rows = int(generator.integers(1, 400))
        distance = generator.random(rows) + (generator.random(rows) < generator.choice([0.01, 0.05, 0.15]))
        distance *= generator.choice([1.0, 1.0, 1.02])
        if generator.random() < 0.05:
            distance[0] = np.nan
        tensor = torch.from_numpy(distance)
        expected = _is_surprising(Estimate(None, tensor, tensor, tensor))
        message = runtime_estimate.warning([distance])
        assert (message is not None) == expected
        assert not expected or message.startswith(f"{(~(distance <= 1)).sum()} of {rows} inputs are outside")
        shared[expected] += 1
    assert min(shared.values()) > 50


def test_the_tail_of_the_binomial_is_that_of_scipy():
    share = runtime_estimate.EXPECTED[0][1]
    for trials in (1, 2, 30, 1000, 100_000):
        for least in sorted({1, 2, trials // 20 + 1, trials // 15 + 1, trials // 10 + 1, trials}):
            if least <= trials:
                expected = stats.binom.sf(least - 1, trials, share)
                assert runtime_estimate.binomial_tail(least, trials, share) == pytest.approx(
                    expected, rel=1e-9, abs=1e-300
                )


def test_both_expect_the_same_of_inputs_like_those_of_fitting():
    assert [pytest.approx(numbers) for numbers in EXPECTED] == list(runtime_estimate.EXPECTED)
    assert runtime_estimate.binomial_tail(1, 5, 0.0) == 0


def test_a_runner_warns_as_the_estimator_does(runner):
    estimator, opened = estimators.estimator("labels"), runner("labels")
    near, far = fits.rows(40, seed=7) / 4, 50 * fits.rows(40, seed=7)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        opened.estimate(near.numpy()), estimator(near)
        assert not seen
        opened.estimate(far.numpy()), estimator(far)
    ours, theirs = (str(each.message) for each in seen)
    assert ours.partition(";")[0] == theirs.partition(";")[0]
    assert all(each.filename == __file__ for each in seen)
