import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from suffice.prediction import entropy
from suffice.variation.teachers import spreads
from suffice.variation.teachers.spreads import Variation, concatenate, finite_outputs


def passes(count=7, rows=5, columns=4, scale=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    deterministic = torch.randn(rows, columns, generator=generator)
    return scale * deterministic, scale * (deterministic + torch.randn(count, rows, columns, generator=generator))


def streamed(deterministic, outputs, likelihood, cut=3):
    sums = spreads.init(deterministic, likelihood)
    for part in outputs.split(cut):
        sums = spreads.update(sums, part)
    return spreads.variation(sums)


@given(count=st.integers(2, 9), cut=st.integers(1, 9), scale=st.sampled_from([1e-3, 1, 20]))
@settings(deadline=None, max_examples=30)
def test_streamed_spreads_of_a_classification_are_those_of_the_stored_passes(count, cut, scale):
    deterministic, outputs = passes(count, scale=scale)
    variation = streamed(deterministic, outputs, "classification", cut)
    log_probs = outputs.double().log_softmax(dim=-1)
    probs, top = log_probs.exp(), deterministic.argmax(dim=1)
    variance = probs.var(dim=0)
    close = {"rtol": 1e-6, "atol": 1e-12}
    torch.testing.assert_close(variation.mean, probs.mean(dim=0))
    torch.testing.assert_close(variation["std"], variance[torch.arange(5), top].sqrt(), **close)
    torch.testing.assert_close(variation["std_mean"], variance.mean(dim=1).sqrt(), **close)
    information = entropy(probs.mean(dim=0).log()) - entropy(log_probs).mean(dim=0)
    torch.testing.assert_close(variation["mutual_information"], information, **close)
    pairs = [(probs[s] * (log_probs[s] - log_probs[t])).sum(dim=1) for s, t in itertools.permutations(range(count), 2)]
    torch.testing.assert_close(variation["disagreement"], torch.stack(pairs).mean(dim=0), **close)
    assert (variation.passes, len(variation), variation.likelihood) == (count, 5, "classification")


def test_the_disagreement_of_few_passes_is_unbiased_and_the_mutual_information_is_not():
    deterministic, outputs = passes(20_000, rows=1)
    many = streamed(deterministic, outputs, "classification", 20_000)
    few = [streamed(deterministic, part, "classification") for part in outputs.split(2)]
    means = {name: torch.cat([v[name] for v in few]).mean() for name in ("disagreement", "mutual_information")}
    assert abs(means["disagreement"] / many["disagreement"] - 1) < 0.03
    assert means["mutual_information"] / many["mutual_information"] < 0.7


def test_spreads_of_a_binary_output_are_of_the_logit_and_of_the_probability():
    deterministic, outputs = passes(columns=1)
    variation = streamed(deterministic, outputs, "binary")
    torch.testing.assert_close(variation["std"], outputs.double().std(dim=0)[:, 0])
    torch.testing.assert_close(variation["std_probability"], outputs.double().sigmoid().std(dim=0)[:, 0])
    torch.testing.assert_close(variation.mean, outputs.double().mean(dim=0))
    assert set(variation.spreads) == {"std", "std_probability"}


def test_several_outputs_have_one_spread_each_and_one_in_common():
    deterministic, outputs = passes(columns=3)
    variation = streamed(deterministic, outputs, "regression")
    each = torch.stack([variation[f"std_{d}"] for d in range(3)], dim=1)
    torch.testing.assert_close(each, outputs.double().std(dim=0))
    torch.testing.assert_close(variation["std"] ** 2, (each**2).mean(dim=1))


def test_exact_second_moments_have_divisor_t():
    deterministic, outputs = passes(columns=1)
    sums = spreads.update(spreads.init(deterministic, "regression"), outputs)
    exact = spreads.variation(sums, divisor=7)["std"]
    torch.testing.assert_close(exact, outputs.double().std(dim=0, correction=0)[:, 0])


def test_a_large_common_value_does_not_cancel_the_digits_of_the_spread():
    deterministic, outputs = passes(columns=1)
    variation = streamed(deterministic.double() + 1e9, outputs.double() + 1e9, "regression")
    torch.testing.assert_close(variation["std"], outputs.double().std(dim=0)[:, 0], rtol=1e-5, atol=0)


def test_variations_of_different_numbers_of_passes_are_not_concatenated():
    few, many = (Variation(torch.ones(1, 2), {}, passes) for passes in (2, 3))
    with pytest.raises(ValueError, match=r"one number of passes, got \[2, 3\]"):
        concatenate([few, many])


def test_a_missing_spread_is_an_error_with_the_names():
    variation = Variation(torch.ones(1, 2), {"std": torch.ones(1)}, 2)
    with pytest.raises(KeyError, match=r"expected one of the spreads \['std'\], got 'sd'"):
        variation["sd"]


def test_the_likelihood_determines_the_shape_of_outputs():
    assert finite_outputs(torch.zeros(2, 3), "classification").shape == (2, 3)
    assert finite_outputs(torch.zeros(2), "binary").shape == (2, 1)
    assert finite_outputs((torch.zeros(2, 3), None), "regression").shape == (2, 3)
    assert finite_outputs([torch.zeros(2, 3), torch.ones(2, 3)], "classification").min() == 1


@pytest.mark.parametrize("shape", [(2, 1), (2,)])
def test_one_number_per_example_is_no_class_logit_and_the_likelihoods_that_fit_are_named(shape):
    with pytest.raises(ValueError, match=r"at least 2 classes, got shape .*likelihood='binary' .* or 'regression'"):
        finite_outputs(torch.zeros(shape), "classification")


def test_several_logits_are_not_binary():
    with pytest.raises(ValueError, match=r"expected one logit .* got shape \(2, 3\); pass likelihood='classification'"):
        finite_outputs(torch.zeros(2, 3), "binary")


@pytest.mark.parametrize("likelihood", spreads.LIKELIHOODS)
def test_outputs_without_columns_with_more_dimensions_or_of_integers_are_refused(likelihood):
    for shape in ((2, 3, 4), (2, 0), ()):
        with pytest.raises(ValueError, match=f"expected an output of shape .* under likelihood='{likelihood}', got"):
            finite_outputs(torch.zeros(shape), likelihood)
    with pytest.raises(ValueError, match=r"expected floating-point outputs, .* got torch\.int64"):
        finite_outputs(torch.zeros(2, 3, dtype=torch.long), likelihood)


def test_a_variation_describes_itself_in_one_line():
    variation = streamed(*passes(columns=3), "regression")
    count = len(variation)
    assert repr(variation) == f"Variation({count:,} examples, 3 outputs, 7 passes: std, std_0, std_1, std_2)"
    many = Variation(torch.ones(1000, 9), {f"std_{d}": torch.ones(1000) for d in range(9)}, 2)
    assert repr(many) == "Variation(1,000 examples, 9 classes, 2 passes: std_0, std_1, std_2, std_3, std_4, …)"


def test_outputs_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="expected finite outputs, got NaN or infinity at position 1"):
        finite_outputs(torch.tensor([0.0, torch.nan]), "regression")


def test_concatenating_a_single_batch_returns_it():
    one = streamed(*passes(), "classification")
    joined = concatenate([one])
    assert torch.equal(joined.mean, one.mean)
    assert torch.equal(joined["std"], one["std"])


@given(count=st.integers(2, 9), cut=st.integers(1, 9), scale=st.sampled_from([1e-3, 1, 20]))
@settings(deadline=None, max_examples=30)
def test_streamed_spreads_of_several_labels_are_those_of_the_stored_passes(count, cut, scale):
    deterministic, outputs = passes(count, scale=scale)
    variation = streamed(deterministic, outputs, "multilabel", cut)
    log_probs = torch.nn.functional.logsigmoid(torch.stack([-outputs, outputs], dim=-1).double())
    probs = log_probs.exp()
    close = {"rtol": 1e-6, "atol": 1e-12}
    torch.testing.assert_close(variation.mean, probs[..., 1].mean(dim=0), **close)
    variance = probs[..., 1].var(dim=0)
    torch.testing.assert_close(variation["std"], variance.mean(dim=1).sqrt(), **close)
    torch.testing.assert_close(variation["std_2"], variance[:, 2].sqrt(), **close)
    information = entropy(probs.mean(dim=0).log()) - entropy(log_probs).mean(dim=0)
    torch.testing.assert_close(variation["mutual_information"], information.sum(dim=1), rtol=1e-6, atol=1e-11)
    pairs = [(probs[s] * (log_probs[s] - log_probs[t])).sum(dim=2) for s, t in itertools.permutations(range(count), 2)]
    torch.testing.assert_close(variation["disagreement"], torch.stack(pairs).mean(dim=0).sum(dim=1), **close)
    assert set(variation.spreads) == {"std", "mutual_information", "disagreement", *(f"std_{d}" for d in range(4))}


def test_one_label_has_the_spread_of_the_probability_of_a_binary_question():
    deterministic, outputs = passes(columns=1)
    binary, several = (streamed(deterministic, outputs, name) for name in ("binary", "multilabel"))
    torch.testing.assert_close(several["std"], binary["std_probability"])
