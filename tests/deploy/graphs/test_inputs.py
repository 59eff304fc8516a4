"""Inputs by name, texts of any length, costs by length, and the coin."""

import dataclasses

import pytest
import torch
from torch import nn

import suffice
from suffice.attach.tokens.masks import TokenMask
from suffice.budget.prices import price
from suffice.deploy.graphs import inputs
from suffice.deploy.graphs.inputs import Inputs
from suffice.network import Exit, ExitNetwork
from tests.deploy import bundles, models

pytestmark = pytest.mark.filterwarnings("ignore:.* ended at the edge of its range", "ignore:expected a mean cost of")


def tolerance(calibrated, x):
    """Return the bound on differences of log-probabilities; attention, norms and means add sums of as many terms."""
    return bundles.tolerance(calibrated, x) * models.WIDTH


def assert_same(exported, x):
    results, wanted = list(exported.passes(x)), exported.calibrated(x)
    for got, prediction in zip(results, wanted, strict=True):
        for name, values in bundles.fields(got).items():
            expected = getattr(prediction, name)
            atol = bundles.field_tolerance(name, expected, tolerance(exported.calibrated, x))
            torch.testing.assert_close(values, expected, atol=atol, rtol=0)
    return results


@pytest.mark.parametrize(("count", "tokens"), [(2, models.TOKENS), (7, models.TOKENS), (3, 5), (1, 14), (4, 1)])
def test_texts_of_any_number_and_length_are_predicted(count, tokens, text_bundle):
    x = models.texts(count, max(tokens, 3), seed=tokens)
    assert_same(text_bundle, {name: values[:, :tokens] for name, values in x.items()})


def test_padding_does_not_change_an_answer(text_bundle):
    x = models.texts(5, 6, seed=3)
    padded = {name: nn.functional.pad(values, (0, 7)) for name, values in x.items()}
    allowed = tolerance(text_bundle.calibrated, padded)
    for short, long in zip(text_bundle.passes(x), text_bundle.passes(padded), strict=True):
        difference = bundles.fields(short)["log_probs"] - bundles.fields(long)["log_probs"]
        assert difference.abs().max() <= allowed


def test_texts_leave_the_batch_where_run_stops_them(text_bundle):
    x = models.texts(40, 7, seed=8)
    exit_, _ = text_bundle.exits(x, text_bundle.policy.thresholds)
    answer = suffice.run(text_bundle.calibrated, text_bundle.policy, x)
    allowed = bundles.score_tolerance("confidence", answer.prediction, tolerance(text_bundle.calibrated, x))
    clear = ((answer.scores - text_bundle.policy.thresholds).abs() > allowed[:, None]).all(dim=1)
    assert clear.sum() >= 30
    assert torch.equal(torch.from_numpy(exit_)[clear], answer.exit[clear])


def test_the_manifest_of_a_text_model_names_its_inputs_their_axes_and_the_mask(text_bundle):
    manifest = text_bundle.manifest
    assert manifest["inputs"] == [
        {"name": "input_ids", "dtype": "int64", "shape": ["N", "T"], "range": [0, models.VOCABULARY - 1]},
        {"name": "attention_mask", "dtype": "int64", "shape": ["N", "T"]},
    ]
    assert manifest["padding"] == {"mask": "attention_mask"}
    hidden = [value["shape"] for value in manifest["stages"][1]["inputs"] if value["shape"][-1] == models.WIDTH]
    assert ["N", "T", models.WIDTH] in hidden


def test_the_costs_of_a_text_model_at_three_lengths_determine_those_at_all(text_bundle):
    costs = text_bundle.manifest["costs"]
    known = costs["by_length"]["T"]
    assert len(set(known)) == 3
    assert costs["length"] == models.TOKENS
    for length in (3, 20):
        wanted = list(price(text_bundle.calibrated, models.texts(1, length), "confidence"))
        columns = zip(*costs["by_length"]["macs"], strict=True)
        assert [inputs._quadratic(known, column, length) for column in columns] == wanted


def of_texts(**changes):
    example = models.texts(3)
    mask = TokenMask("attention_mask", "true")
    return dataclasses.replace(Inputs(example, list(example), mask, models.TOKENS), **changes)


def test_costs_that_are_no_quadratic_are_stated_for_one_length_only(monkeypatch):
    monkeypatch.setattr(inputs, "price", lambda calibrated, x, score: (x["input_ids"].shape[1] ** 3, 7))
    got = of_texts().costs(None, "confidence")
    assert got == {"macs": [models.TOKENS**3, 7], "length": models.TOKENS, "by_length": None}


def test_costs_that_are_a_quadratic_are_stated_at_three_lengths(monkeypatch):
    monkeypatch.setattr(inputs, "price", lambda calibrated, x, score: (x["input_ids"].shape[1] ** 2 + 5, 7))
    got = of_texts().costs(None, "confidence")["by_length"]
    assert got["macs"] == [[length**2 + 5, 7] for length in got["T"]]


def test_a_second_batch_has_fewer_examples_and_half_the_tokens():
    class Both(nn.Module):
        def forward(self, x):
            return x

    network = ExitNetwork([Both()], [Exit(Both(), nn.Linear(1, 1))])
    network.forward = lambda x: None
    probe = of_texts().probe(network)
    assert [tuple(values.shape) for values in probe.first.values()] == [(3, 9), (3, 9)]
    assert [tuple(values.shape) for values in probe.second.values()] == [(2, 4), (2, 4)]
    assert [value.shape for value in probe.values] == [("N", "T"), ("N", "T")]


class FixedLength(nn.Module):
    """Stage that adds one number to each of 9 tokens."""

    def forward(self, x):
        return x["input_ids"] + torch.arange(models.TOKENS)


def test_a_network_of_texts_of_one_length_is_refused():
    network = ExitNetwork([FixedLength()], [Exit(nn.Identity(), nn.Linear(9, 3))])
    with pytest.raises(
        ValueError, match="a network of texts of any length, got RuntimeError for 4 in place of 9 tokens"
    ):
        of_texts().probe(network)


def test_a_text_that_is_too_short_is_refused():
    calibrated = models.calibrated_text()
    with pytest.raises(ValueError, match="at least 4 tokens, got 3; pass a longer text"):
        Inputs.of(calibrated.network, models.texts(2, 3))


@pytest.mark.parametrize(
    ("mask", "padding"),
    [
        (TokenMask("attention_mask", "true"), {"mask": "attention_mask"}),
        (TokenMask("attention_mask", "false"), None),
        (TokenMask("input_ids", "other", 0), None),
        (TokenMask(None, "true"), None),
        (None, None),
    ],
)
def test_the_mask_is_named_if_not_zero_means_that_a_token_counts(mask, padding):
    assert of_texts(mask=mask).padding() == padding


@pytest.mark.parametrize("mask", [TokenMask("attention_mask", "false"), TokenMask("input_ids", "other", 0)])
def test_a_coin_that_needs_another_mask_is_refused(mask):
    of_texts().check_coin()
    with pytest.raises(ValueError, match="not 0 where a token counts, for a mixed policy or randomized sets"):
        of_texts(mask=mask).check_coin()


def test_a_coin_that_needs_another_order_of_the_inputs_is_refused():
    x = {"a": torch.ones(2, 3), "a!": torch.ones(2, 3)}
    with pytest.raises(ValueError, match=r"in the order of their names.*rename the keys to letters and digits"):
        Inputs(x, list(x), None, None).check_coin()
    Inputs({"b": x["a"], "a": x["a"]}, ["b", "a"], None, None).check_coin()


def test_a_network_of_a_mapping_has_an_input_for_each_key_in_any_order(tmp_path):
    network = ExitNetwork([Joined(), nn.Tanh()], [Exit(nn.Identity(), nn.Linear(4, 3)) for _ in range(2)]).eval()
    x = {"numbers": torch.randn(9, 2), "category": torch.arange(9) % 5}
    calibrated = suffice.calibrate(
        network, None, [(x, torch.arange(9) % 3)], structure=None, ensemble=False, temperature=False
    )
    suffice.export(calibrated, tmp_path / "bundle", example={**x, "labels": torch.arange(9)})
    exported = bundles.Bundle(tmp_path / "bundle", calibrated)
    assert [entry["name"] for entry in exported.manifest["inputs"]] == ["numbers", "category"]
    assert [entry["shape"] for entry in exported.manifest["inputs"]] == [["N", 2], ["N"]]
    other = {"category": torch.tensor([4, 0]), "numbers": torch.randn(2, 2)}
    results = assert_same(exported, other)
    assert exported.manifest["policy"] is None
    assert all("score" not in got and "next.running.0" not in got for got in results)


class Joined(nn.Module):
    """First stage of a table with numbers and a category."""

    def __init__(self):
        super().__init__()
        self.linear, self.embedding = nn.Linear(2, 4), nn.Embedding(5, 4)

    def forward(self, x):
        return self.linear(x["numbers"]) + self.embedding(x["category"])
