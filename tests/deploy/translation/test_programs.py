"""Programs of torch and packages of AOTInductor give the predictions of the calibrated network at every exit."""

import hashlib
import re
from functools import cache

import pytest
import torch
from torch import nn

import suffice
from suffice.budget import scores
from suffice.deploy import checks
from tests import builders
from tests.deploy import bundles, estimators, models, programs
from tests.deploy.bundles import FEW, NESTED
from tests.deploy.programs import ProgramBundle
from tests.variation import fits

pytestmark = [
    pytest.mark.filterwarnings("ignore:.* ended at the edge of its range", "ignore:expected a mean cost of"),
    pytest.mark.numerics,
]
SETTINGS = [*FEW, NESTED]
FIRST = SETTINGS[0]
FAST = {FIRST}
SOME_SLOW = pytest.mark.parametrize(
    "setting",
    [setting if setting in FAST else pytest.param(setting, marks=pytest.mark.slow) for setting in SETTINGS],
    ids=str,
)


@pytest.fixture(scope="session")
def compiler():
    """Skip a test where torch finds no compiler."""
    try:
        checks.compiler()
    except RuntimeError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """Return a function that exports the tiny network with a setting in a format once."""

    @cache
    def export(setting, format):
        folder = tmp_path_factory.mktemp(format) / "bundle"
        score = FEW.get(setting, "patience")
        policy = bundles.policy_for(setting, score)
        suffice.export(
            bundles.calibrated_for(setting), folder, policy=policy, example=builders.inputs(2), format=format
        )
        return ProgramBundle(folder)

    return export


@pytest.fixture(scope="session")
def texts(tmp_path_factory):
    """Return a function that exports the text model with its estimator in a format once."""

    @cache
    def export(format):
        folder = tmp_path_factory.mktemp(format) / "bundle"
        calibrated, policy, estimator = models.calibrated_text(), models.text_policy(), estimators.text_estimator()
        suffice.export(calibrated, folder, policy=policy, estimator=estimator, example=models.texts(2), format=format)
        return ProgramBundle(folder)

    return export


def assert_same_predictions(bundle, calibrated, x):
    """Compare the predictions of all exits."""
    allowed = bundles.tolerance(calibrated, x)
    for results, prediction in zip(bundle.passes(x), calibrated(x), strict=True):
        found = programs.prediction_of(results)
        assert found
        for name, values in found.items():
            expected = getattr(prediction, name)
            atol = bundles.field_tolerance(name, expected, allowed)
            torch.testing.assert_close(values, expected, atol=atol, rtol=0)


def assert_same_scores(bundle, calibrated, policy, x):
    """Compare the scores of all exits but the last."""
    *results, last = bundle.passes(x)
    assert "score" not in last
    allowed, score = bundles.tolerance(calibrated, x), scores.resolve(policy.score)
    for k, (got, prediction) in enumerate(zip(results, calibrated(x), strict=False)):
        expected = scores.evaluate(score, prediction, None, k)
        reach = bundles.score_tolerance(policy.score, prediction, allowed)
        assert got["score"].dtype == torch.float64
        assert ((got["score"] - expected).abs() <= reach).all()


def assert_same_estimates(bundle, estimator, x):
    """Compare what an estimator returns."""
    found, expected = bundle.estimate(x), estimators.flat(estimator.estimate(x))
    ours = [values for name, values in found.items() if name != "clipped"]
    for got, wanted, atol in zip(ours, expected, estimators.tolerances(estimator, x), strict=True):
        torch.testing.assert_close(got, wanted, atol=atol, rtol=0)


@SOME_SLOW
def test_programs_give_the_prediction_of_each_exit_for_any_number_of_examples(setting, exported):
    bundle, calibrated = exported(setting, "torch"), bundles.calibrated_for(setting)
    for count in (bundles.ROWS, 1, 2):
        assert_same_predictions(bundle, calibrated, builders.inputs(count, seed=3))


@SOME_SLOW
def test_programs_give_the_score_of_the_policy(setting, exported):
    policy = bundles.policy_for(setting, FEW.get(setting, "patience"))
    x = builders.inputs(bundles.ROWS, seed=4)
    assert_same_scores(exported(setting, "torch"), bundles.calibrated_for(setting), policy, x)


def test_examples_that_leave_between_two_programs_do_not_change_the_others(exported):
    bundle, calibrated = exported(FIRST, "torch"), bundles.calibrated_for(FIRST)
    x, kept = builders.inputs(9, seed=5), torch.tensor([7, 1, 4])
    first = bundle.call(0, programs.inputs(x))
    fed = {name.removeprefix("next."): values[kept] for name, values in first.items() if name.startswith("next.")}
    last = bundle.call(1, fed)["log_probs"]
    allowed = bundles.tolerance(calibrated, x)
    torch.testing.assert_close(last, calibrated(x)[1].log_probs[kept], atol=allowed, rtol=0)


TEXTS = pytest.mark.parametrize(("count", "tokens"), [(2, models.TOKENS), (5, 6), (1, 14), (4, 3)])


@TEXTS
def test_programs_of_texts_take_any_length(count, tokens, texts):
    x = models.texts(count, tokens, seed=tokens)
    assert_same_predictions(texts("torch"), models.calibrated_text(), x)
    assert_same_estimates(texts("torch"), estimators.text_estimator(), x)


def test_a_program_of_an_estimator_alone(tmp_path):
    name = "functions and an ensemble"
    estimator, case = estimators.estimator(name), estimators.FAST[name]
    suffice.export(estimator, tmp_path / "bundle", example=case.inputs(2), format="torch")
    assert {file.name for file in (tmp_path / "bundle").iterdir()} == {
        "manifest.json",
        "model_card.md",
        "estimator.pt2",
    }
    bundle = ProgramBundle(tmp_path / "bundle")
    for count in (7, 1):
        assert_same_estimates(bundle, estimator, case.inputs(count, seed=3))


@pytest.mark.slow
def test_a_package_of_an_estimator_alone(tmp_path, compiler):
    estimator = estimators.estimator("output of an object")
    suffice.export(estimator, tmp_path / "bundle", example=fits.rows(2), format="inductor")
    bundle = ProgramBundle(tmp_path / "bundle")
    for count in (7, 1):
        assert_same_estimates(bundle, estimator, fits.rows(count, seed=3))
    assert_no_sources(tmp_path / "bundle" / "estimator.pt2")
    assert "Packages of AOTInductor for the device 'cpu'" in (tmp_path / "bundle" / "model_card.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_packages_give_the_predictions_and_scores_for_any_number_of_examples(setting, exported, compiler):
    bundle, calibrated = exported(setting, "inductor"), bundles.calibrated_for(setting)
    for count in (bundles.ROWS, 1, 2):
        assert_same_predictions(bundle, calibrated, builders.inputs(count, seed=3))
    policy = bundles.policy_for(setting, FEW.get(setting, "patience"))
    assert_same_scores(bundle, calibrated, policy, builders.inputs(bundles.ROWS, seed=4))


@pytest.mark.slow
@TEXTS
def test_packages_of_texts_take_any_length(count, tokens, texts, compiler):
    x = models.texts(count, tokens, seed=tokens)
    assert_same_predictions(texts("inductor"), models.calibrated_text(), x)
    assert_same_estimates(texts("inductor"), estimators.text_estimator(), x)


def test_a_manifest_is_that_of_onnx_graphs_but_for_the_format(bundle, exported):
    setting = FIRST
    theirs, ours = bundle(setting).manifest, exported(setting, "torch").manifest
    assert (theirs["graph_format"], theirs["device"], theirs["opset"]) == ("onnx", None, 20)
    assert (ours["graph_format"], ours["device"], ours["opset"]) == ("torch", "cpu", None)
    assert set(ours["versions"]) == {"torch", "suffice"}
    for k, (mine, other) in enumerate(zip(ours["stages"], theirs["stages"], strict=True)):
        payload = (exported(setting, "torch").folder / f"stage-{k}.pt2").read_bytes()
        assert (mine["file"], mine["bytes"]) == (f"stage-{k}.pt2", len(payload))
        assert mine["sha256"] == hashlib.sha256(payload).hexdigest()
        assert [mine[kind] for kind in ("inputs", "outputs")] == [other[kind] for kind in ("inputs", "outputs")]
    same = set(theirs) - {"graph_format", "device", "opset", "versions", "stages", "manifest_sha256"}
    assert {name: ours[name] for name in same} == {name: theirs[name] for name in same}


def test_a_card_states_what_the_files_are(exported):
    card = (exported(FIRST, "torch").folder / "model_card.md").read_text()
    assert "| 0 | stage-0.pt2 |" in card
    assert (
        f"Programs of torch.export for the device 'cpu', saved by torch {torch.__version__}: torch.export.load" in card
    )
    assert "ONNX" not in card


def test_no_program_holds_the_example_or_paths_and_classes_of_the_code(exported, texts):
    for bundle in (exported(FIRST, "torch"), texts("torch")):
        for entry in bundle.entries:
            file = bundle.folder / entry["file"]
            found = programs.occurrences(file, rb"\.py\b|site-packages|suffice|stack_trace|/home/|TextClassifier")
            assert not found
            examples = [payload for name, payload in programs.members(file).items() if "sample_inputs" in name]
            assert set(examples) <= {b""}


def assert_no_sources(file):
    """Check that a package holds no sources, and of paths only those in the messages of C++."""
    assert not [name for name in programs.members(file) if name.endswith(".cpp")]
    for path in programs.occurrences(file, rb"[\x20-\x7e]*(?:site-packages|\.py\b|/home/)[\x20-\x7e]*"):
        assert re.search(rb"/torch/include/.*\.h$|\.cpp$", path), path


def test_two_exports_of_programs_are_the_same_bytes(exported, tmp_path):
    setting = FIRST
    folder, policy = exported(setting, "torch").folder, bundles.policy_for(setting, FEW[setting])
    x = builders.inputs(5, seed=8)
    suffice.export(bundles.calibrated_for(setting), tmp_path / "again", policy=policy, example=x, format="torch")
    for file in sorted(folder.iterdir()):
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes(), file.name


class Branching(nn.Module):
    def forward(self, x):
        return -x if x.abs().max() > 100 else x


@pytest.mark.parametrize("format", ["torch", "inductor"])
def test_a_pass_that_depends_on_values_is_refused_in_every_format(format, tmp_path, compiler):
    network, x = builders.network((4, 5)), builders.inputs(30)
    network.stages[1] = nn.Sequential(Branching(), network.stages[1])
    calibrated = builders.untuned(network, x, structure=None)
    with pytest.raises(ValueError, match=r"expected stage 1 to be one graph .* at test_programs.py:\d+"):
        suffice.export(calibrated, tmp_path / "bundle", example=x, format=format)
    assert list(tmp_path.iterdir()) == []
