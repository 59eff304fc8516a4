"""Bundles that the tests share, as an export takes seconds."""

from collections.abc import Callable, Iterator
from functools import cache, partial

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
def exporter() -> Iterator[None]:
    """Skip all tests where nothing can be exported, or no graph can be run.

    The table by which torch translates, which it builds in half a second for every graph, is built once.
    """
    bundles.require_exporter()
    pytest.importorskip("onnxruntime")
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(ONNXRegistry, "from_torchlib", staticmethod(cache(ONNXRegistry.from_torchlib)))
        yield


@pytest.fixture(scope="session")
def bundle(tmp_path_factory) -> Callable[..., Bundle]:
    """Return a function that exports the tiny network with a setting once, and returns its bundle."""
    made: dict[Setting, Bundle] = {}

    def exported(setting: Setting) -> Bundle:
        if setting not in made:
            score = SCORES.get(setting) or ("confidence" if setting.is_discrete else "variance")
            calibrated, policy = bundles.calibrated_for(setting), bundles.policy_for(setting, score)
            export = partial(suffice.export, calibrated, policy=policy, example=builders.inputs(2))
            write = partial(export, **OPTIONS.get(setting, {}))
            folder = bundles.shared_folder(tmp_path_factory, f"bundle-{setting}", write)
            made[setting] = Bundle(folder, calibrated, policy)
        return made[setting]

    return exported


@pytest.fixture(scope="session")
def text_bundle(tmp_path_factory) -> Bundle:
    """Bundle of a text model with an attached exit and an estimator, whose example has 9 tokens."""
    calibrated, policy = models.calibrated_text(), models.text_policy()
    estimator = estimators.text_estimator()
    write = partial(suffice.export, calibrated, policy=policy, estimator=estimator, example=models.texts(2))
    return Bundle(bundles.shared_folder(tmp_path_factory, "texts", write), calibrated, policy)
