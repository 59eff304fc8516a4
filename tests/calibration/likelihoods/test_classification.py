import math

import pytest
import torch

from suffice import calibrate
from suffice.calibration import links
from tests import builders

X = builders.inputs(400)


@pytest.mark.parametrize("link", ["probit", "meanfield"])
def test_a_closed_form_is_the_one_that_was_named(link):
    net = builders.network(widths=(6,))
    (exit_,) = builders.untuned(net, X).exits
    phi, outputs = net.stages[0](X), net(X)[0]
    spectrum = exit_.spectrum(phi)
    prediction = exit_.likelihood.predict(outputs, 1.5, exit_.posterior, spectrum, link, None)
    log_probs, aleatoric = getattr(links, link)(outputs, exit_.posterior.centered_variance(spectrum), 1.5)
    torch.testing.assert_close(prediction.log_probs, log_probs)
    torch.testing.assert_close(prediction.aleatoric, aleatoric)


@pytest.mark.parametrize("temperature", [0.2, 5.0])
def test_logits_that_are_too_flat_or_too_steep_are_tempered(temperature):
    """In logarithm, the tuned temperature is closer to that of the labels than to 1."""
    net = builders.network(widths=(6,), scale=2 * temperature)
    y = builders.sampled_labels(net(X)[0], temperature)
    calibrated = calibrate(net, [(X, y)], [(X, y)], structure=None, ensemble=False)
    tuned = calibrated.exits[0].temperature
    assert abs(math.log(tuned / temperature)) < abs(math.log(temperature)) / 2
