import pytest
import torch
from torch import nn

from suffice.variation.buckets import fit_buckets
from suffice.variation.fitting import fit_variation
from suffice.variation.teachers.dropout import MCDropout
from suffice.variation.teachers.spreads import Variation
from tests import builders
from tests.variation.fits import TEACHER, fit, fixed, rows, seeded, tower


def test_mutual_information_is_refused_as_a_target():
    with pytest.raises(ValueError, match=r"'std', another deviation .* got 'mutual_information'; .* biased"):
        fit(target="mutual_information")


@pytest.mark.parametrize("method", ["network", "ridge"])
def test_a_single_training_row_is_refused_and_two_are_not(method):
    with pytest.raises(ValueError, match="at least 2 training rows, got 1"):
        fit(n=1, method=method, layers=[])
    assert fit(n=2, method=method, layers=[]).layers == ()


def test_three_validation_rows_are_refused():
    with pytest.raises(ValueError, match="at least 4 validation rows, got 3"):
        fit_variation(tower(), [rows(9)], [rows(3)], teacher=TEACHER)


def test_training_rows_that_are_all_the_same_are_refused():
    same = [torch.ones(10, 3)]
    with pytest.raises(ValueError, match="training rows that differ, got 10 rows with the same output"):
        fit_variation(tower(), same, [rows(5)], teacher=TEACHER, generator=seeded())


def test_labels_that_are_all_zero_are_refused():
    def silent(model, x, *, generator=None):
        del model, generator
        return Variation(torch.ones(len(x), 4) / 4, {"std": torch.zeros(len(x))}, 3)

    with pytest.raises(ValueError, match="labels 'std' above zero, got zero for all 64 training rows"):
        fit(teacher=silent)


def test_labels_that_are_not_finite_are_refused_by_position():
    def broken(model, x, *, generator=None):
        variation = fixed(model, x)
        variation.spreads["std"][5] = torch.nan
        return variation

    with pytest.raises(ValueError, match="finite labels 'std', got NaN or infinity at position 5"):
        fit(teacher=broken)


def test_features_that_are_not_finite_are_refused_by_position():
    class Overflowing(nn.Module):
        def __init__(self):
            super().__init__()
            self.relu, self.tower = nn.ReLU(), tower()

        def forward(self, x):
            self.relu(torch.exp(x[:, :1] * 1e4))
            return self.tower(x)

    x = rows(64).abs().neg()
    x[40, 0] = 1.0
    with pytest.raises(ValueError, match=r"finite outputs and activation strengths, .* at position 40"):
        fit_variation(Overflowing(), x.split(16), [x[:9]], teacher=TEACHER, layers=["relu"])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"model": builders.untuned(builders.network(), rows(9))},
            "expected a model, .* got Calibrated; pass its .network",
        ),
        ({"model": "tower"}, "expected a model, an nn.Module, got str; pass the model"),
        ({"teacher": MCDropout}, r"such as suffice.MCDropout\(passes=10\), got the class MCDropout; make one"),
        ({"teacher": "dropout"}, "expected a teacher such as .*, got 'dropout'"),
        ({"val_loader": None}, "got NoneType; pass a DataLoader"),
        ({"train_loader": (rows(9), torch.zeros(9))}, "got a pair of tensors"),
    ],
)
def test_arguments_of_another_type_are_refused_before_the_teacher_runs(wrong, message):
    def never(model, x, *, generator=None):
        raise AssertionError("the teacher ran")

    arguments = {"model": tower(), "train_loader": [rows(9)], "val_loader": [rows(9)], "teacher": never}
    for fit_something in (fit_variation, fit_buckets):
        with pytest.raises(TypeError, match=message):
            fit_something(**{**arguments, **wrong})


@pytest.mark.parametrize(("train_rows", "val_rows"), [([], [rows(5)]), ([rows(5)], [])])
def test_an_empty_loader_is_refused(train_rows, val_rows):
    with pytest.raises(ValueError, match="expected at least one example, got an empty loader"):
        fit_variation(tower(), train_rows, val_rows, teacher=TEACHER, generator=seeded())


def test_options_that_do_not_exist_or_are_incompatible_are_refused():
    with pytest.raises(ValueError, match="'value', 'on' or 'both', got 'off'"):
        fit(strengths="off")
    with pytest.raises(ValueError, match="'ridge' with named layers, got 'ridge', layers='auto'"):
        fit(method="ridge", layers="auto")
