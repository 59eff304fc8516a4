import json
from pathlib import Path

import pytest
import torch
from torch import nn

from suffice import metrics
from suffice.data.sources import digits
from suffice.models import convnet
from suffice.storage.parts import Parts
from suffice.training import SGDConfig, train
from suffice.variation.estimator import VariationEstimator
from suffice.variation.features.reader import MARGINS
from suffice.variation.features.strengths import capture
from suffice.variation.fitting import fit_labels, fit_variation
from suffice.variation.learning.labels import label
from suffice.variation.teachers.dropout import MCDropout
from suffice.variation.teachers.spreads import Variation
from tests.robustness.surroundings import anywhere
from tests.variation.fits import TEACHER, fit, fixed, rows, seeded, tower


def r2(estimate, truth):
    return float(1 - (estimate.double() - truth).square().mean() / truth.var(correction=0))


@pytest.fixture(scope="module")
def trained():
    """Network for digits, perturbed copies of its training images, the data, and the truth on test images."""
    data = digits.load(0, validation=200, test=150)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = convnet(10, widths=(6, 12), features=24, dropout=0.2)
        train(model, data.train.batches(64), epochs=8, optimizer=SGDConfig(0.05))
    images = torch.cat([digits.perturb(data.train.images, 0.8, generator=seeded(k)) for k in range(3)])
    truth = MCDropout(passes=1000)(model, data.test.images, generator=seeded(7))
    return model, images, data, truth


def test_it_beats_a_constant_and_a_few_passes_against_a_thousand(trained):
    model, images, data, truth = trained
    teacher = MCDropout(passes=8)
    estimator = fit_variation(model, images.split(512), data.validation.batches(), teacher=teacher, generator=seeded())
    few = teacher(model, data.test.images, generator=seeded(8))["std"]
    _, variation = estimator(data.test.images)
    assert r2(variation, truth["std"]) > 0.7
    assert r2(variation, truth["std"]) > r2(few, truth["std"])
    half = truth["std"].median()
    assert metrics.auroc(variation, truth["std"] > half) > 0.93
    assert estimator.estimate(data.test.images).clipped.mean() < 0.05


def test_the_output_alone_and_the_mean_over_classes_can_be_learned(trained):
    model, images, data, truth = trained
    estimator = fit_variation(
        model,
        images.split(512),
        data.validation.batches(),
        teacher=MCDropout(passes=8),
        layers=[],
        target="std_mean",
        generator=seeded(),
    )
    assert estimator.layers == ()
    assert r2(estimator(data.test.images)[1], truth["std_mean"]) > 0.6


def test_the_same_seed_gives_the_same_bytes_and_leaves_torchs_own_randomness():
    state = torch.get_rng_state()
    (_, first), (_, second), (_, other) = (fit(generator=seeded(seed)).parts() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["weights.0"], other["weights.0"])
    assert torch.equal(torch.get_rng_state(), state)


def test_parts_pass_through_json_and_give_the_same_estimator_back():
    estimator = fit(layers=["1"])
    configuration, tensors = estimator.parts()
    configuration = json.loads(json.dumps(configuration))
    restored = VariationEstimator.from_parts(Parts(configuration, tensors), estimator.model)
    assert torch.equal(restored(rows(20))[1], estimator(rows(20))[1])
    assert (restored.layers, restored.quality, restored.teacher) == (("1",), estimator.quality, TEACHER)
    assert repr(restored.fitted_mlp) == repr(estimator.fitted_mlp)


def test_the_variance_of_noisy_labels_is_learned_without_bias():
    """The minimizer of QLIKE is the mean of s²: labels of two passes, a quarter of them zero, suffice for it."""

    def coin(model, x, *, generator=None):
        del model
        size = 0.1 + 0.2 * (x[:, 0] > 0)
        on = torch.rand(len(x), generator=generator) < 0.75
        return Variation(torch.ones(len(x), 4) / 4, {"std": (size * on).double()}, 2)

    estimator = fit_variation(
        tower(), [rows(4000)], [rows(1000, seed=1)], teacher=coin, hidden=(16,), generator=seeded()
    )
    x = rows(500, seed=2)
    expected = (0.1 + 0.2 * (x[:, 0] > 0)) * 0.75**0.5
    clear = x[:, 0].abs() > 1
    ratio = (estimator(x)[1] / expected)[clear]
    assert abs(float(ratio.square().mean()) - 1) < 0.15


def test_estimates_stay_in_the_range_of_the_labels_however_far_the_inputs_are():
    estimator = fit(teacher=fixed, epochs=40)
    low, high = estimator.fitted_mlp.bounds
    labels = rows(64)[:, 0].abs()
    far = estimator.estimate(100 * rows(200, seed=3)).variation
    assert labels.min() <= low < high <= labels.max()
    assert far.min() >= torch.tensor(low)
    assert far.max() <= torch.tensor(high)
    assert estimator.estimate(100 * rows(200, seed=3)).clipped.mean() > 0.5
    assert estimator.estimate(rows(64)).clipped.mean() < 0.02


def noise(model, x, *, generator=None):
    """Teacher whose labels do not depend on the input."""
    del model
    spread = torch.rand(len(x), generator=generator).double()
    return Variation(torch.ones(len(x), 4) / 4, {"std": spread}, 2)


def test_labels_of_pure_noise_are_not_memorized():
    variation = fit(teacher=noise, n=300, epochs=2000, hidden=(64, 64))(rows(300))[1]
    assert abs(float(variation.square().mean()) - 1 / 3) < 0.06
    assert variation.std() < 0.15


def test_fits_to_the_same_labels_differ_only_by_their_options():
    model = tower()
    labels = label(model, [rows(300)], [rows(64, seed=1)], teacher=TEACHER, generator=seeded()).in_memory()
    choices = {"epochs": 3, "hidden": (8,)}
    first = fit_labels(model, labels, layers=[], generator=seeded(), **choices)
    fit_labels(model, labels, layers="auto", generator=seeded(), **choices)
    again = fit_labels(model, labels, layers=[], generator=seeded(), **choices)
    assert all(torch.equal(a, b) for a, b in zip(first.fitted_mlp.weights, again.fitted_mlp.weights, strict=True))


def test_default_options_are_the_same_for_labels_and_for_loaders():
    model, loaders = tower(), ([rows(64)], [rows(32, seed=1)])
    from_loaders = fit_variation(model, *loaders, teacher=TEACHER, generator=seeded(), epochs=1)
    labels = label(model, *loaders, teacher=TEACHER, generator=seeded())
    from_labels = fit_labels(model, labels, generator=seeded(), epochs=1)
    assert from_labels.reader == from_loaders.reader
    assert from_labels.macs == from_loaders.macs


def test_loaders_may_hold_labels_mappings_or_inputs_alone():
    x = rows(64)
    plain = fit().parts()[1]
    for loader in ([(x, torch.zeros(64))], [(x,)]):
        estimator = fit_variation(
            tower(), loader, [rows(32, seed=1)], teacher=TEACHER, epochs=3, hidden=(8,), generator=seeded()
        )
        assert torch.equal(estimator.parts()[1]["weights.0"], plain["weights.0"])


def test_a_model_without_activations_can_be_fitted_from_its_output():
    model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 4))
    with pytest.raises(ValueError, match="expected a model with activations"):
        fit(model=model)
    assert fit(model=model, layers=[])(rows(5))[1].shape == (5,)


def test_the_strengths_of_the_named_layers_are_read():
    model = tower()
    strengths = capture(model, rows(64), ["1"])[1]["1"]
    active = int(((strengths != 0).float().mean(dim=0) >= 0.01).sum())
    estimators = fit(model=model, layers=["1"]), fit(model=model, layers=[])
    widths = [estimator.fitted_mlp.scaling.columns.numel() for estimator in estimators]
    assert widths[0] - widths[1] == active


def wide(rate=0.5):
    """Tower with two activations, of which only the second is dropped."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        body = [nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Dropout(rate), nn.Linear(16, 1)]
    return nn.Sequential(*body)


REGRESSION = MCDropout(passes=8, likelihood="regression")


def test_auto_takes_the_fewest_layers_within_one_percent_of_all_and_lists_what_it_tried():
    model, x = wide(), rows(3000)
    choices = {"teacher": REGRESSION, "generator": seeded(), "epochs": 25}
    estimator = fit_variation(model, [x], [rows(1000, seed=1)], layers="auto", **choices)
    table = estimator.quality.subsets
    assert table[0]["layers"] == []
    assert table[-1]["layers"] == [MARGINS, "1", "3"]
    assert estimator.layers == (MARGINS,)  # they are exact here
    chosen = next(row for row in table if row["layers"] == list(estimator.layers))
    limit = 0.99 * table[-1]["r_squared"]
    assert chosen["r_squared"] >= limit
    assert all(row["r_squared"] < limit for row in table[: table.index(chosen)])
    small_network = estimator.fitted_mlp.weights[0].numel() + 64 * 64 + 64
    assert chosen["macs"] == estimator.macs == small_network + estimator.fitted_mlp.distance.macs + 16
    assert chosen["cost"] == pytest.approx(estimator.macs / (3 * 16 + 16 * 16 + 16))
    assert estimator(rows(50, seed=2))[1].shape == (50,)
    truth = MCDropout(passes=2000, likelihood="regression")(model, rows(200, seed=3), generator=seeded(1))["std"]
    assert r2(estimator(rows(200, seed=3))[1], truth) > 0.9
    assert abs(estimator.quality.r_squared - r2(estimator(rows(200, seed=3))[1], truth)) < 0.08


def test_the_cost_of_layers_is_relative_to_all_that_the_model_computes():
    class Recurrent(nn.LSTM):
        def forward(self, x):
            return super().forward(x[:, None])[0][:, 0]

    model = nn.Sequential(Recurrent(3, 32), nn.Linear(32, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 4))
    whole = 4 * 32 * (3 + 32) + 32 * 8 + 8 * 4
    for row in fit(model=model, layers="auto").quality.subsets:
        assert row["cost"] == row["macs"] / whole


@pytest.mark.parametrize("likelihood", ["regression", "binary", "multilabel"])
def test_ridge_learns_on_a_stream_in_closed_form(likelihood):
    model = wide()
    teacher = MCDropout(passes=8, likelihood=likelihood)
    parts = (part for part in rows(3000).split(100))
    estimator = fit_variation(model, parts, [rows(500, seed=1)], teacher=teacher, method="ridge", generator=seeded())
    assert len(estimator.fitted_mlp.weights) == 2
    truth = MCDropout(passes=2000, likelihood=likelihood)(model, rows(200, seed=3), generator=seeded(1))["std"]
    assert r2(estimator(rows(200, seed=3))[1], truth) > 0.8


@pytest.mark.parametrize("strengths", ["on", "both"])
def test_strengths_on_and_off_can_be_learned_from(strengths):
    estimator = fit_variation(
        wide(),
        [rows(1000)],
        [rows(200, seed=1)],
        teacher=REGRESSION,
        strengths=strengths,
        epochs=15,
        generator=seeded(),
    )
    assert estimator.quality.r_squared > 0.5
    columns = estimator.fitted_mlp.scaling.columns
    assert int((columns > 0).sum()) > (16 if strengths == "both" else 4)


def test_the_delta_rule_can_be_a_feature():
    teacher = MCDropout(0.4, at="3", passes=8, likelihood="regression")
    choices = {"teacher": teacher, "layers": [], "epochs": 15, "generator": seeded()}
    with_rule = fit_variation(wide(), [rows(1000)], [rows(200, seed=1)], delta=True, **choices)
    without = fit_variation(wide(), [rows(1000)], [rows(200, seed=1)], **choices)
    assert with_rule.quality.r_squared > 0.95 > without.quality.r_squared
    restored = VariationEstimator.from_parts(Parts(*json_parts(with_rule)), with_rule.model)
    assert torch.equal(restored(rows(20))[1], with_rule(rows(20))[1])
    with pytest.raises(ValueError, match="expected MCDropout as the teacher for delta=True, got function"):
        fit(teacher=fixed, delta=True)


@pytest.mark.parametrize("likelihood", ["classification", "binary", "multilabel", "regression"])
def test_the_margins_can_be_a_feature_beside_layers_and_are_saved(likelihood):
    model = tower() if likelihood in ("classification", "multilabel") else wide()
    teacher = MCDropout(passes=4, likelihood=likelihood)
    estimator = fit(model=model, teacher=teacher, layers=["1", MARGINS])
    assert estimator.layers == (MARGINS, "1")
    restored = VariationEstimator.from_parts(Parts(*json_parts(estimator)), model)
    assert restored.reader.head.layers == estimator.reader.head.layers == (("3",) if len(model) == 4 else ("5",))
    assert restored.macs == estimator.macs > estimator.fitted_mlp.macs
    assert torch.equal(restored(rows(20))[1], estimator(rows(20))[1])
    assert all(map(torch.equal, estimator.parts()[1].values(), restored.parts()[1].values()))


def test_the_margins_are_nearly_all_that_the_variation_of_a_head_depends_on():
    choices = {"teacher": REGRESSION, "epochs": 15, "generator": seeded()}
    with_margins = fit_variation(wide(), [rows(1000)], [rows(200, seed=1)], layers=[MARGINS], **choices)
    without = fit_variation(wide(), [rows(1000)], [rows(200, seed=1)], layers=[], **choices)
    assert with_margins.quality.r_squared > 0.95 > without.quality.r_squared


def test_margins_are_refused_by_name_and_absent_from_auto_where_they_do_not_apply():
    with pytest.raises(ValueError, match=r"expected MCDropout as the teacher for layers=\['<margins>'\], got function"):
        fit(teacher=fixed, layers=[MARGINS])
    elsewhere = MCDropout(0.3, at="<input>", passes=4)
    model = nn.Sequential(nn.Linear(3, 8), nn.Softmax(dim=1), nn.ReLU(), nn.Linear(8, 4))
    with pytest.raises(
        ValueError, match=r"got dropout at \['<input>'\], which is elsewhere: .*; leave the margins out"
    ):
        fit(model=model, teacher=elsewhere, layers=MARGINS)
    for choices in ({"teacher": fixed}, {"model": model, "teacher": elsewhere}):
        estimator = fit(layers="auto", **choices)
        assert MARGINS not in estimator.quality.subsets[-1]["layers"]
        assert estimator.reader.head is None


def json_parts(estimator):
    configuration, tensors = estimator.parts()
    return json.loads(json.dumps(configuration)), tensors


def test_the_disagreement_can_be_learned(trained):
    model, images, data, truth = trained
    estimator = fit_variation(
        model,
        images.split(512),
        data.validation.batches(),
        teacher=MCDropout(passes=8),
        target="disagreement",
        generator=seeded(),
    )
    assert r2(estimator(data.test.images)[1], truth["disagreement"]) > 0.6


@anywhere
@pytest.mark.parametrize("method", ["network", "ridge"])
def test_the_modes_of_the_caller_change_nothing(surrounding, method):
    model, loaders = tower(), ([rows(64)], [rows(32, seed=1)])
    labels = label(model, *loaders, teacher=TEACHER, generator=seeded()).in_memory()
    choices = {"epochs": 2, "hidden": (4,), "method": method}

    def fits():
        yield fit_variation(model, *loaders, teacher=TEACHER, generator=seeded(), **choices)
        yield fit_labels(model, labels, generator=seeded(), **choices)

    expected = list(fits())
    with surrounding():
        fitted = list(fits())
    for actual, reference in zip(fitted, expected, strict=True):
        assert all(map(torch.equal, actual.fitted_mlp.weights, reference.fitted_mlp.weights))
        assert actual.quality == reference.quality
        assert all(map(torch.equal, actual(rows(5)), reference(rows(5))))


def test_an_r_squared_below_zero_or_not_a_number_is_warned_of_with_what_to_do():
    with pytest.warns(UserWarning, match=r"got an R² of -.* on 4 held-out rows; pass more training rows") as caught:
        fit_variation(tower(), [rows(2)], [rows(8, seed=1)], teacher=fixed, layers=[], epochs=0, generator=seeded())
    assert [warning.filename for warning in caught] == [__file__]
    same = rows(1).expand(8, 3)  # of which all spreads are equal
    with pytest.warns(UserWarning, match=r"got NaN: two measurements of the 4 held-out spreads .*; pass more valid"):
        fit_variation(tower(), [rows(64)], [same], teacher=fixed, epochs=1, generator=seeded())


def test_the_table_of_choices_in_the_docs_has_the_numbers_of_the_results():
    """Every R² in the table is that of the results, which are generated."""
    docs = Path(__file__).parents[2] / "docs"
    section = (docs / "variation.md").read_text().split("## Which `layers` to choose")[1].split("\n## ")[0]
    results = (docs / "results.md").read_text()
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    names = ["all layers", "auto layers", "margins", "last layer", "prediction only", "last layer and delta rule"]
    assert len(lines[2:]) == len(names)
    for (_, hidden, dropped, *_), name in zip(lines[2:], names, strict=True):
        for table, number in zip(("criteo", "emnist"), hidden.split(" / "), strict=True):
            assert number == _result(results, table, name, 2)
        for table, number in zip(("criteo", "emnist"), dropped.split(" / "), strict=True):
            assert number == _result(results, table, name, 4)


def _result(page, table, estimator, column):
    """Return the mean R² of an estimator in one column of a table of the results."""
    rows_of_table = page.split(f"<!-- table {table} estimates -->")[1].split("<!-- end -->")[0].splitlines()
    row = next(line for line in rows_of_table if line.startswith(f"| estimator, {estimator} |"))
    return row.strip("|").split("|")[column].split("±")[0].strip()
