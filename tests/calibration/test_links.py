import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from suffice.calibration import links
from tests import tolerances


@pytest.fixture(scope="module", autouse=True, params=[links._FEW, 0], ids=["few", "many"])
def _rows(request):
    """Run every test for few sampled logits and for many, which are computed in blocks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(links, "_FEW", request.param)
        yield


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_plugin_is_the_softmax_of_tempered_logits_with_its_own_entropy(temperature):
    logits = randn(20, 5)
    log_probs, aleatoric = links.plugin(logits, temperature)
    probs = (logits / temperature).softmax(dim=1)
    torch.testing.assert_close(log_probs.exp(), probs)
    torch.testing.assert_close(aleatoric, -(probs * probs.log()).sum(dim=1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log_probabilities_do_not_underflow_at_a_gap_of_200(dtype):
    logits = torch.tensor([[0.0, 200.0, -200.0]], dtype=dtype)
    expected = torch.tensor([[-200.0, 0.0, -400.0]], dtype=dtype)
    log_probs, aleatoric = links.plugin(logits, 1.0)
    torch.testing.assert_close(log_probs, expected)
    assert 0 <= float(aleatoric) < 1e-80

    nothing = torch.zeros(1, 4, 3, dtype=dtype)
    log_probs, aleatoric = links.sampled(logits, torch.ones(1, 1, dtype=dtype), nothing, 1.0)
    within_a_factor_of_the_samples = math.log(4) + 1e-4
    torch.testing.assert_close(log_probs, expected, atol=within_a_factor_of_the_samples, rtol=0)
    assert 0 <= float(aleatoric) < 1e-20


def test_log_probabilities_have_gradients_where_they_underflow():
    logits = torch.tensor([[0.0, 200.0]], requires_grad=True)
    temperature = torch.tensor(1.0, requires_grad=True)
    log_probs, _ = links.sampled(logits, torch.ones(1, 1), torch.zeros(1, 4, 2), temperature)
    log_probs[0, 0].backward()
    rounding = (
        2 * 200 * tolerances.gamma(1, torch.float32)
    )  # error of two logarithms of that size, and so the relative error of their exponentials
    assert float(temperature.grad) == pytest.approx(200, rel=rounding)
    assert logits.grad[0].tolist() == pytest.approx([1, -1], rel=rounding)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_sampled_is_the_mean_softmax_of_the_joint_samples(temperature):
    logits, coefficients, values = randn(6, 4), randn(6, 2, seed=1), randn(2, 8, 4, seed=2)
    log_probs, aleatoric = links.sampled(logits, coefficients, values, temperature)
    for n in range(6):
        samples = [logits[n] + coefficients[n, 0] * values[0, s] + coefficients[n, 1] * values[1, s] for s in range(8)]
        probs = torch.stack([(sample / temperature).softmax(dim=0) for sample in samples])
        torch.testing.assert_close(log_probs[n].exp(), probs.mean(dim=0))
        torch.testing.assert_close(aleatoric[n], torch.special.entr(probs).sum(dim=1).mean())


def test_without_deviation_both_links_are_equal():
    logits = randn(5, 4)
    got = links.sampled(logits, torch.zeros(5, 2).double(), randn(2, 8, 4), 0.7)
    for a, b in zip(got, links.plugin(logits, 0.7), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("link", ["plugin", "sampled"])
def test_temperature_is_a_scale_of_the_logits_and_their_samples(link):
    logits, coefficients, values = randn(6, 4), randn(6, 2, seed=1), randn(2, 8, 4, seed=2)
    if link == "plugin":
        hot, scaled = links.plugin(logits, 2.5), links.plugin(logits / 2.5, 1.0)
    else:
        hot = links.sampled(logits, coefficients, values, 2.5)
        scaled = links.sampled(logits / 2.5, coefficients / 2.5, values, 1.0)
    for a, b in zip(hot, scaled, strict=True):
        torch.testing.assert_close(a, b)


def test_rows_held_at_once_do_not_change_the_answer(monkeypatch):
    logits, coefficients, values = randn(50, 4), randn(50, 2, seed=1), randn(2, 8, 4, seed=2)
    whole = links.sampled(logits, coefficients, values, 1.0)
    monkeypatch.setattr(links, "CHUNK", 8 * 4 * 7)
    for a, b in zip(whole, links.sampled(logits, coefficients, values, 1.0), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("classes", [3, 40, 300])
@pytest.mark.parametrize("scale", [0.1, 3.0, 40.0])
def test_answers_are_the_same_with_and_without_gradients(classes, scale, monkeypatch):
    logits, coefficients = randn(30, classes) * scale, randn(30, 2, seed=1) * scale
    values = randn(2, 8, classes, seed=2).requires_grad_()
    learned = links.sampled(logits, coefficients, values, 1.0)
    monkeypatch.setattr(links, "CHUNK", 1000)
    monkeypatch.setattr(links, "_BLOCK", 3 * classes)
    with torch.no_grad():
        served = links.sampled(logits, coefficients, values, 1.0)
    for a, b in zip(learned, served, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("classes", [5, 50])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_no_sample_is_lost_however_far_it_reaches(classes, scale):
    logits, coefficients, values = randn(6, classes) * 30, randn(6, 2, seed=1), randn(2, 8, classes, seed=2) * scale
    log_probs, aleatoric = links.sampled(logits, coefficients, values, 0.5)
    samples = logits[:, None] + torch.einsum("nr,rsc->nsc", coefficients, values)
    each = (samples / 0.5).softmax(dim=2)
    torch.testing.assert_close(log_probs.exp(), each.mean(dim=1))
    torch.testing.assert_close(aleatoric, torch.special.entr(each).sum(dim=2).mean(dim=1))


def test_an_empty_batch_has_an_empty_answer():
    log_probs, aleatoric = links.sampled(randn(0, 4), randn(0, 2), randn(2, 8, 4), 1.0)
    assert log_probs.shape == (0, 4)
    assert aleatoric.shape == (0,)


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 1000), scale=st.floats(0.01, 50), temperature=st.floats(0.05, 20))
def test_aleatoric_lies_between_zero_and_the_entropy(seed, scale, temperature):
    logits, coefficients = randn(10, 5, seed=seed) * scale, randn(10, 2, seed=seed + 1) * scale
    log_probs, aleatoric = links.sampled(logits, coefficients, randn(2, 8, 5, seed=seed + 2), temperature)
    entropy = torch.special.entr(log_probs.exp()).sum(dim=1)
    assert (aleatoric >= 0).all()
    assert (aleatoric <= entropy + 1e-9).all()
    assert (entropy <= math.log(5) + 1e-9).all()
    torch.testing.assert_close(log_probs.exp().sum(dim=1), torch.ones(10).double())


@pytest.mark.parametrize("link", [links.probit, links.meanfield])
def test_without_variance_closed_forms_are_the_softmax(link):
    logits = randn(6, 4)
    for got, expected in zip(link(logits, torch.zeros(6, 4).double(), 0.7), links.plugin(logits, 0.7), strict=True):
        torch.testing.assert_close(got, expected)


def test_probit_shrinks_each_logit_by_its_variance():
    logits, variance = randn(6, 4), randn(6, 4, seed=1).square()
    centered = logits - logits.mean(dim=1, keepdim=True)
    expected = (centered / (1 + math.pi / 8 * variance / 0.49).sqrt() / 0.7).softmax(dim=1)
    torch.testing.assert_close(links.probit(logits, variance, 0.7)[0].exp(), expected)


@pytest.mark.parametrize("link", [links.plugin, links.probit, links.meanfield])
def test_a_constant_added_to_all_logits_changes_nothing(link):
    logits = randn(6, 4)
    variances = [] if link is links.plugin else [randn(6, 4, seed=1).square()]
    for a, b in zip(link(logits, *variances, 0.7), link(logits + 5, *variances, 0.7), strict=True):
        torch.testing.assert_close(a, b)


def test_mean_field_is_the_normalised_product_of_pairwise_comparisons():
    logits, variance = randn(3, 4), randn(3, 4, seed=1).square()

    def compared(n, k, i):
        spread = math.sqrt(1 + math.pi / 8 * float(variance[n, k] + variance[n, i]))
        return math.exp(float(logits[n, i] - logits[n, k]) / spread)

    for n in range(3):
        weights = [1 / sum(compared(n, k, i) for i in range(4)) for k in range(4)]
        expected = torch.tensor(weights, dtype=torch.float64) / sum(weights)
        torch.testing.assert_close(links.meanfield(logits, variance, 1.0)[0][n].exp(), expected)


@pytest.mark.parametrize("link", [links.probit, links.meanfield])
def test_closed_forms_do_not_depend_on_the_rows_held_at_once(link, monkeypatch):
    logits, variance = randn(20, 4), randn(20, 4, seed=1).square()
    whole = link(logits, variance, 1.3)
    monkeypatch.setattr(links, "CHUNK", 16 * 3)
    for a, b in zip(whole, link(logits, variance, 1.3), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("link", [links.probit, links.meanfield])
def test_aleatoric_of_a_closed_form_is_no_more_than_the_total(link):
    log_probs, aleatoric = link(randn(50, 4) * 3, randn(50, 4, seed=1).square() * 9, 1.0)
    assert (aleatoric <= torch.special.entr(log_probs.exp()).sum(dim=1) + 1e-12).all()


def test_rows_with_far_samples_are_computed_in_the_wider_type_and_others_are_not():
    logits, values = randn(6, 4).float(), randn(3, 8, 4, seed=1).float()
    spectrum = randn(6, 3, seed=2)
    spectrum[[1, 4]] *= 1e6
    calls = []

    def coefficients(rows):
        calls.append((rows.dtype, len(rows)))
        return 2 * rows

    results = links.sampled_from(logits, spectrum, coefficients, values, 2.0)
    assert calls == [(torch.float32, 6), (torch.float64, 2)]
    wide = links.sampled(logits.double(), 2 * spectrum, values.double(), 2.0)
    narrow = links.sampled(logits, 2 * spectrum.float(), values, 2.0)
    near = [0, 2, 3, 5]
    for result, exact, rounded in zip(results, wide, narrow, strict=True):
        assert result.dtype == torch.float32
        rounding = torch.finfo(torch.float32).eps  # of the result alone: half of a temperature of 2 is exact
        torch.testing.assert_close(result[[1, 4]], exact[[1, 4]].float(), rtol=rounding, atol=0)
        torch.testing.assert_close(result[near], rounded[near])
