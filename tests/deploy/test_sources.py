"""What is exported is checked before an example runs: estimators with their networks, and arguments of other types."""

import warnings

import pytest
import torch

import suffice
from suffice.deploy.sources import Sources
from suffice.storage.fingerprint import fingerprint
from tests import builders
from tests.deploy import estimators, models
from tests.variation import fits

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit")


def exported(folder, *args, **options):
    suffice.export(*args, folder=folder / "bundle", **options)


@pytest.fixture
def folder(tmp_path):
    """Return a folder in which `export` may not write."""
    yield tmp_path
    assert list(tmp_path.iterdir()) == []


def test_the_delta_rule_is_refused_by_its_name(folder):
    estimator = fits.fit(delta=True)
    with pytest.raises(ValueError, match=r"got one with delta=True, whose gradient.*layers=\['<margins>', …\]"):
        exported(folder, estimator, example=fits.rows(2))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_model_in_another_floating_type_is_refused(dtype, folder):
    estimator = fits.fit(fits.tower().to(dtype))
    with pytest.raises(TypeError, match=f"a network in float32, got {dtype} at '0.weight'; call network.float"):
        exported(folder, estimator, example=fits.rows(2))


def test_weights_that_have_changed_are_refused(folder):
    estimator = fits.fit()
    with torch.no_grad():
        estimator.model[0].weight.mul_(2)
    with pytest.raises(ValueError, match="weights"):
        exported(folder, estimator, example=fits.rows(2))


def calibrated():
    network = builders.network((8,), classes=4)
    return builders.untuned(network, fits.rows(30), structure=None)


def test_an_estimator_of_another_network_is_refused_by_the_name_of_a_weight(folder):
    with pytest.raises(ValueError, match=r"of the calibrated network, or of the model .* other weights at"):
        exported(folder, calibrated(), estimator=fits.fit(), example=fits.rows(2))


def test_an_estimator_of_the_model_that_exits_were_attached_to_is_accepted():
    model = models.TextClassifier(models.CLASSES).eval()
    x = models.texts(20)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator = suffice.fit_variation(model, [x], [x], teacher=fits.TEACHER, epochs=1, layers=[])
        network = suffice.attach_exits(model, at=["layers.0"], example=x)
    assert estimator.network_hash != fingerprint(network)
    Sources(builders.untuned(network, x, structure=None), None, estimator).check()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"estimator": "std"}, "an estimator or None, got str; suffice.fit_variation makes one"),
        ({"policy": "confidence"}, "a policy or None, got str"),
        ({"estimator": True}, "an estimator or None, got bool"),
        ({"policies": [models.text_policy()]}, "a policy with policies, got None; pass the one that is used first"),
        ({"policies": models.text_policy()}, "policies as a list of policies, got Policy"),
        ({"policies": ["confidence"]}, "policies as a list of policies, got str"),
    ],
)
def test_an_argument_of_another_type_is_refused(options, message, folder):
    with pytest.raises(TypeError, match=message):
        exported(folder, calibrated(), example=fits.rows(2), **options)


def test_an_estimator_with_a_policy_or_another_estimator_is_refused(folder):
    estimator = estimators.estimator("labels")
    with pytest.raises(TypeError, match="an estimator alone, got also another estimator; pass the calibrated network"):
        exported(folder, estimator, estimator=estimator, example=fits.rows(2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_names": ["a"]}, "4 class_names, one for each output, got 1"),
        ({"example": fits.rows(2)[:, :2]}, "an example that the estimator takes, got RuntimeError"),
        ({"example": fits.rows(0)}, "one row or more, got none"),
    ],
)
def test_an_argument_that_does_not_fit_an_estimator_is_refused(options, message, folder):
    with pytest.raises(ValueError, match=message):
        exported(folder, estimators.estimator("labels"), **{"example": fits.rows(2), **options})
