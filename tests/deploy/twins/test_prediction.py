"""The properties of the runtime's predictions are those of the library's."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import suffice
import suffice_runtime
from tests.deploy.twins import pairs

CLASSES = ("probs", "label", "confidence", "log_odds", "margin", "entropy", "epistemic", "soundness")
LABELS = (*CLASSES, "aleatoric", "label_log_odds", "label_entropy", "label_epistemic")
NUMBERS = ("variance", "std", "soundness")


def assert_same(theirs, ours, names):
    """Compare properties within torch's tolerance for float32; labels and values that are copied are equal."""
    for name in names:
        found = torch.from_numpy(np.asarray(getattr(ours, name)))
        torch.testing.assert_close(found, getattr(theirs, name), msg=lambda text, name=name: f"{name}: {text}")


sizes = {"n": st.integers(1, 6), "width": st.integers(2, 6), "seed": st.integers(0, 2**32 - 1)}
spread = st.sampled_from([0.1, 3.0, 40.0, 1000.0])


@settings(deadline=None, max_examples=100)
@given(**sizes, spread=spread)
def test_classes(n, width, seed, spread):
    generator = np.random.default_rng(seed)
    log_probs = pairs.log_softmax(spread * generator.normal(size=(n, width)))
    theirs, ours = pairs.classifications(log_probs, generator.random(n, dtype=np.float32))
    assert_same(theirs, ours, CLASSES)
    assert repr(ours) == repr(theirs)


@settings(deadline=None, max_examples=100)
@given(**sizes, spread=spread)
def test_several_labels(n, width, seed, spread):
    generator = np.random.default_rng(seed)
    log_probs = pairs.log_softmax(spread * generator.normal(size=(n, width, 2)))
    aleatoric = generator.random((n, width), dtype=np.float32)
    theirs = suffice.Multilabel(torch.from_numpy(log_probs), torch.from_numpy(aleatoric))
    assert_same(theirs, suffice_runtime.Multilabel(log_probs, aleatoric), LABELS)


@settings(deadline=None, max_examples=50)
@given(**sizes, level=st.sampled_from([0.5, 0.9, 0.95, 0.999]))
def test_numbers(n, width, seed, level):
    generator = np.random.default_rng(seed)
    fields = [generator.normal(size=(n, width)).astype(np.float32), *generator.random((2, n, width), dtype=np.float32)]
    theirs, ours = suffice.Regression(*map(torch.from_numpy, fields)), suffice_runtime.Regression(*fields)
    assert_same(theirs, ours, NUMBERS)
    for end, other in zip(ours.interval(level), theirs.interval(level), strict=True):
        torch.testing.assert_close(torch.from_numpy(end), other)


@pytest.mark.parametrize("kind", ["Prediction", "Multilabel", "Regression"])
def test_the_runtime_has_no_property_with_another_meaning(kind):
    """Every property of the runtime is one of the library."""
    theirs, ours = getattr(suffice, kind), getattr(suffice_runtime, kind)
    properties = {name for name, value in vars(ours).items() if isinstance(value, property)}
    assert properties <= {name for name, value in vars(theirs).items() if isinstance(value, property)}
    assert properties == set({"Prediction": CLASSES, "Multilabel": LABELS, "Regression": NUMBERS}[kind])


def test_answers_have_the_same_properties():
    def public(kind):
        return {name for name, value in vars(kind).items() if isinstance(value, property)}

    assert public(suffice_runtime.Answer) == public(suffice.Answer) | {"macs"}
