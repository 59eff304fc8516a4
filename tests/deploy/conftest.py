"""Bundles that the tests share, as an export takes seconds."""

from collections.abc import Callable

import pytest

import suffice
from tests import builders
from tests.deploy import bundles
from tests.deploy.bundles import Bundle, Setting

SCORES = {**bundles.FEW, bundles.NESTED: "patience"}


@pytest.fixture(scope="session")
def bundle(tmp_path_factory) -> Callable[..., Bundle]:
    """Return a function that exports the tiny network with a setting once, and returns its bundle."""
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    made: dict[Setting, Bundle] = {}

    def exported(setting: Setting, score: str | None = None, **options) -> Bundle:
        if setting not in made:
            score = score or SCORES.get(setting) or ("confidence" if setting.is_discrete else "variance")
            calibrated, policy = bundles.calibrated_for(setting), bundles.policy_for(setting, score)
            folder = tmp_path_factory.mktemp("bundles") / "bundle"
            suffice.export(calibrated, folder, policy=policy, example=builders.inputs(2), **options)
            made[setting] = Bundle(folder, calibrated, policy)
        return made[setting]

    return exported
