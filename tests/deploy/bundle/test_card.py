"""A model card states the inputs, the exits, the policy and the classes of a bundle."""

import pytest

from suffice.deploy.bundle import card
from tests.deploy.bundles import FEW, NESTED

PROMISE = {"loss": "accuracy", "max_loss": 0.02, "confidence": 0.9}


def test_the_card_of_a_bundle_is_that_of_its_manifest(bundle):
    exported = bundle(list(FEW)[1])
    text = (exported.folder / "model_card.md").read_text(encoding="utf-8")
    assert text == card.text(exported.manifest)
    assert "A network with 2 exits that predicts the probability of each class (4 outputs" in text
    assert "| input | float32 | N × 3 |" in text
    assert f"| 0 | stage-0.onnx | {exported.manifest['stages'][0]['bytes'] / 1e6:.2f} |" in text
    assert "Classes: a, b, c, é." in text
    assert "integers" not in text
    assert "'aleatoric' reaches its threshold" in text


def test_a_card_states_second_thresholds(bundle):
    text = card.text(bundle(NESTED).manifest)
    assert "of the inputs have other thresholds" in text
    assert "everything left" in text


@pytest.mark.parametrize(
    ("confidence", "held"), [(0.9, "at most 0.02, with probability 0.9"), (None, "at most 0.02, in expectation")]
)
def test_a_card_states_a_promise(confidence, held, bundle):
    manifest = bundle(NESTED).manifest
    policy = {**manifest["policy"], "promise": {**PROMISE, "confidence": confidence}}
    assert held in card.text({**manifest, "policy": policy})


def test_a_card_states_that_there_is_no_policy(bundle):
    assert "every exit is computed" in card.text({**bundle(NESTED).manifest, "policy": None})


def test_a_card_states_the_cost_of_other_policies(bundle):
    manifest = bundle(NESTED).manifest
    assert "Other policies" not in card.text(manifest)
    others = [{**manifest["policy"], "expected": cost} for cost in (9000.0, 41.0)]
    assert "with an expected cost of 41, 9,000 per example" in card.text({**manifest, "policies": others})


def test_names_are_text_in_markdown():
    assert card._escaped("<b>[x](y) | *a*\nb") == r"\<b\>\[x\]\(y\) \| \*a\* b"
    assert card._escaped("digit 3, é") == "digit 3, é"
