"""Properties of predictions on numbers that can be checked by hand; tests/deploy compares them with suffice's."""

import math

import numpy as np
import pytest

from suffice_runtime import Multilabel, Prediction, Regression
from suffice_runtime.prediction import concatenate

CLASSES = Prediction(np.log(np.array([[0.7, 0.2, 0.1], [0.25, 0.25, 0.5]])), np.array([0.5, 2.0]))


def test_classes():
    assert CLASSES.label.tolist() == [0, 2]
    assert CLASSES.confidence.tolist() == pytest.approx([0.7, 0.5])
    assert CLASSES.log_odds.tolist() == pytest.approx([math.log(7 / 3), 0], abs=1e-15)
    assert CLASSES.margin.tolist() == pytest.approx([math.log(3.5), math.log(2)])
    nats = [-sum(p * math.log(p) for p in row) for row in ((0.7, 0.2, 0.1), (0.25, 0.25, 0.5))]
    assert CLASSES.entropy.tolist() == pytest.approx(nats)
    assert CLASSES.epistemic.tolist() == pytest.approx([nats[0] - 0.5, 0])
    assert repr(CLASSES) == "Prediction(2 examples, 3 classes)"


def test_certain_classes_do_not_saturate():
    prediction = Prediction(np.array([[-1e-30, -69.0], [0.0, -np.inf]]), np.zeros(2))
    assert prediction.log_odds.tolist() == [69, np.inf]
    assert prediction.entropy[1] == 0
    assert (prediction.entropy >= 0).all()


def test_labels():
    probs = np.array([[0.9, 0.2, 0.5]])
    prediction = Multilabel(np.log(np.stack([1 - probs, probs], axis=2)), np.array([[0.1, 0.2, 0.9]]))
    assert prediction.label.tolist() == [[1, 0, 0]]
    assert prediction.confidence.tolist() == pytest.approx([(0.9 + 0.8 + 0.5) / 3])
    assert prediction.log_odds.tolist() == pytest.approx([math.log(2.2 / 0.8)])
    assert prediction.margin.tolist() == pytest.approx([0])
    nats = [-(p * math.log(p) + (1 - p) * math.log(1 - p)) for p in (0.9, 0.2, 0.5)]
    assert prediction.entropy.tolist() == pytest.approx([sum(nats)])
    assert prediction.aleatoric.tolist() == pytest.approx([1.2])
    assert prediction.epistemic.tolist() == pytest.approx([nats[0] - 0.1 + nats[1] - 0.2])
    assert repr(prediction) == "Multilabel(1 examples, 3 labels)"


def test_numbers():
    one = np.ones((1, 2))
    prediction = Regression(one, 3 * one, one)
    low, high = prediction.interval(0.95)
    assert prediction.std.tolist() == [[2, 2]]
    assert (high - low)[0].tolist() == pytest.approx([2 * 1.959963984540054 * 2] * 2)
    with pytest.raises(ValueError, match=r"expected a level between 0 and 1, got 95; 0.95 is 95 %"):
        prediction.interval(95)
    assert repr(prediction) == "Regression(1 examples, 2 outputs)"


def test_rows_are_taken_and_put_together():
    parts = [CLASSES.take(np.array([1])), CLASSES.take(np.array([0]))]
    joined = concatenate(parts)
    assert joined.log_probs.tolist() == CLASSES.log_probs[::-1].tolist()
    assert joined.aleatoric.tolist() == [2.0, 0.5]
    assert len(joined) == 2


@pytest.mark.parametrize("place", [("log_probs", (0, 1)), ("aleatoric", (0,))])
def test_soundness_is_finite_only_where_all_fields_are(place):
    fields = {"log_probs": CLASSES.log_probs.copy(), "aleatoric": CLASSES.aleatoric.copy()}
    fields[place[0]][place[1]] = np.nan
    assert np.isfinite(Prediction(**fields).soundness).tolist() == [False, True]
