"""Bundles that the tests share, as an export takes seconds."""

from collections.abc import Callable

import pytest

import suffice
from tests import builders
from tests.deploy import bundles, estimators, models
from tests.deploy.bundles import Bundle, Setting

SCORES = {**bundles.FEW, bundles.NESTED: "patience"}
OPTIONS = {
    list(bundles.FEW)[1]: {
        "opset": 18,
        "class_names": ("a", "b", "c", "é"),
        "preprocessing": {"mean": (0.5, 0.25), "resize": {"size": 8}},
    }
}


@pytest.fixture(autouse=True, scope="session")
def exporter() -> None:
    """Skip all tests where nothing can be exported, or no graph can be run."""
    bundles.require_exporter()
    pytest.importorskip("onnxruntime")


@pytest.fixture(scope="session")
def bundle(tmp_path_factory) -> Callable[..., Bundle]:
    """Return a function that exports the tiny network with a setting once, and returns its bundle."""
    made: dict[Setting, Bundle] = {}

    def exported(setting: Setting) -> Bundle:
        if setting not in made:
            score = SCORES.get(setting) or ("confidence" if setting.is_discrete else "variance")
            calibrated, policy = bundles.calibrated_for(setting), bundles.policy_for(setting, score)
            folder = tmp_path_factory.mktemp("bundles") / "bundle"
            options = OPTIONS.get(setting, {})
            suffice.export(calibrated, folder, policy=policy, example=builders.inputs(2), **options)
            made[setting] = Bundle(folder, calibrated, policy)
        return made[setting]

    return exported


@pytest.fixture(scope="session")
def text_bundle(tmp_path_factory) -> Bundle:
    """Bundle of a text model with an attached exit and an estimator, whose example has 9 tokens."""
    calibrated, policy = models.calibrated_text(), models.text_policy()
    folder = tmp_path_factory.mktemp("texts") / "bundle"
    estimator = estimators.text_estimator()
    suffice.export(calibrated, folder, policy=policy, estimator=estimator, example=models.texts(2))
    return Bundle(folder, calibrated, policy)
