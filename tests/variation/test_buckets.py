import math
import warnings

import pytest
import torch
from torch import nn

import suffice
from suffice import metrics
from suffice.storage.parts import Parts
from suffice.variation.buckets import Buckets, fit_buckets
from suffice.variation.teachers.dropout import MCDropout
from suffice.variation.teachers.spreads import Variation
from tests import tolerances
from tests.robustness.surroundings import anywhere

TEACHER = MCDropout(passes=8, likelihood="regression")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def rows(n, seed=0):
    return torch.randn(n, 3, generator=seeded(seed))


def tower():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 1))


def test_the_lowest_and_the_highest_are_separated_from_the_rest():
    model, x = tower(), rows(500, seed=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        buckets = fit_buckets(model, [rows(3000)], [rows(500, seed=1)], teacher=TEACHER, epochs=20, generator=seeded())
    truth = MCDropout(passes=2000, likelihood="regression")(model, x, generator=seeded(3))["std"]
    output, probs = buckets(x)
    assert torch.equal(output, model.eval()(x))
    low, high = truth.quantile(0.1), truth.quantile(0.9)
    assert metrics.auroc(probs[:, 0], truth <= low) > 0.95
    assert metrics.auroc(probs[:, 1], truth >= high) > 0.95
    assert probs.mean(dim=0).tolist() == pytest.approx([0.1, 0.1], abs=tolerances.share(0.1, 500))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_inputs_without_a_finite_output_are_refused_by_their_position(value):
    buckets = fit_buckets(tower(), [rows(200)], [rows(50, seed=1)], teacher=TEACHER, epochs=1, generator=seeded())
    bad = rows(8)
    bad[5, 0] = value
    with pytest.raises(ValueError, match=r"finite outputs, .* position 5 "):
        buckets(bad)


def test_weights_that_changed_are_refused():
    model = tower()
    buckets = fit_buckets(model, [rows(99)], [rows(50, seed=1)], teacher=TEACHER, epochs=1, generator=seeded())
    with torch.no_grad():
        model[0].bias += 1
    with pytest.raises(ValueError, match="expected a network whose weights have the hash"):
        buckets(rows(2))


def test_reloaded_they_give_the_same_bytes_for_the_same_model_only(tmp_path):
    model, x = tower(), rows(20, seed=2)
    buckets = fit_buckets(
        model, [rows(99)], [rows(50, seed=1)], teacher=TEACHER, strengths="both", epochs=2, generator=seeded()
    )
    suffice.save(buckets, tmp_path / "buckets")
    again = suffice.load(tmp_path / "buckets", network=model)
    assert torch.equal(buckets(x)[1], again(x)[1])
    assert again.share == 0.1
    configuration, tensors = buckets.parts()
    with pytest.raises(ValueError, match=r"expected share to be a number, finite and above 0 and below 0\.5, got 0.6"):
        Buckets.from_parts(Parts({**configuration, "share": 0.6}, tensors, "the file"), model)
    with pytest.raises(TypeError, match="expected the model that this was fitted for"):
        suffice.load(tmp_path / "buckets")
    with pytest.raises(ValueError, match="expected a network whose weights have the hash"):
        suffice.load(tmp_path / "buckets", network=nn.Sequential(*tower()[:3], nn.Linear(16, 1)))


@pytest.mark.parametrize("choice", [{"share": 0.5}, {"share": 0.0}, {"layers": "auto"}])
def test_choices_out_of_range_are_refused(choice):
    with pytest.raises(ValueError, match=r"a share in \(0, 0.5\) and named layers, got share="):
        fit_buckets(tower(), [rows(9)], [rows(9)], teacher=TEACHER, **choice)


@anywhere
def test_the_modes_of_the_caller_change_nothing(surrounding):
    model, x, loaders = tower(), rows(9, seed=2), ([rows(99)], [rows(50, seed=1)])
    expected = fit_buckets(model, *loaders, teacher=TEACHER, epochs=1, generator=seeded())
    with surrounding():
        actual = fit_buckets(model, *loaders, teacher=TEACHER, epochs=1, generator=seeded())
    assert all(map(torch.equal, actual(x), expected(x)))


def test_buckets_that_the_rows_do_not_support_are_warned_of():
    def fit(n, val_rows, **choices):
        fit_buckets(tower(), [rows(n)], [val_rows], generator=seeded(), **{"teacher": TEACHER, "epochs": 1, **choices})

    def constant(model, x, *, generator=None):
        return Variation(x, {"std": torch.ones(len(x))}, 3, "regression")

    def shuffled(model, x, *, generator=None):
        return Variation(x, {"std": torch.rand(len(x), generator=generator)}, 3, "regression")

    val = rows(50, seed=1)
    with pytest.warns(
        UserWarning, match="got 9 of 99 training rows among the lowest, fewer than 10; 9 of 99"
    ) as caught:
        fit(99, val)
    assert [warning.filename for warning in caught] == [__file__]
    with pytest.warns(UserWarning, match="got 0 of 300 training rows among the lowest, fewer than 10; 0 of 300"):
        fit(300, val, teacher=constant)
    with pytest.warns(UserWarning, match="got 0 of 2 validation rows among the lowest; 0 of 2 "):
        fit(300, val[val.norm(dim=1).argsort()[20:22]])
    with pytest.warns(
        UserWarning, match=r"an AUROC of 0\.\d\d for the .* of the validation rows, no better than chance"
    ):
        fit(300, val, teacher=shuffled)
