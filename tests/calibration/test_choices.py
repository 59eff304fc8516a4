import pytest
import torch

from suffice.calibration.calibrate import calibrate
from suffice.calibration.choices import PRESETS, Choices, in_default_modes


def test_the_preset_of_the_paper_is_its_method_whole():
    choices = Choices.of("paper", likelihood="classification")
    assert (choices.prior, choices.tuning, choices.samples) == ("factored", "grid", 50)
    assert (choices.combination, choices.tunes_weights, choices.fitted_link) == ("average", False, "sampled")
    assert not choices.selects_posterior


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("tuning", "evidence"), ("samples", 8), ("ensemble", False), ("structure", None)),
        *(
            ("tuning", "validation"),
            ("samples", 16),
            ("ensemble", True),
            ("prior", "exact"),
            ("link", "auto"),
        ),  # defaults
    ],
)
def test_a_preset_goes_with_no_other_value_of_a_choice_that_it_makes(name, value):
    message = f"preset='paper' without other values of what it sets, got {name}={value!r} too; omit one"
    with pytest.raises(ValueError, match=message):
        calibrate(torch.nn.Linear(2, 2), None, None, preset="paper", **{name: value})


def test_a_preset_goes_with_its_own_values():
    @in_default_modes
    def called(**choices):
        assert torch.is_grad_enabled()
        return Choices.of(**choices)

    with torch.no_grad():
        assert called(preset="paper", samples=50, prior="factored", likelihood="binary") == called(
            preset="paper", likelihood="binary"
        )
        assert called(preset=None, samples=8).samples == 8


def test_a_preset_leaves_the_choices_that_it_does_not_make():
    assert Choices.of("paper", bias_precision=2.0).bias_precision == 2.0


@pytest.mark.parametrize("preset", ["Paper", "", 1, True, ["paper"]])
def test_an_unknown_preset_is_refused(preset):
    with pytest.raises(ValueError, match=r"expected preset to be None or one of \('paper',\), got"):
        Choices.of(preset)
    with pytest.raises(ValueError, match=r"expected preset to be None or one of \('paper',\), got"):
        calibrate(torch.nn.Linear(2, 2), None, None, preset=preset)


def test_presets_set_choices():
    assert all(set(values) <= set(Choices.__dataclass_fields__) for values in PRESETS.values())


@pytest.mark.parametrize(
    ("likelihood", "combination"), [("binary", "product"), ("multilabel", "product"), ("regression", "average")]
)
def test_exits_are_combined_by_the_product_where_there_is_one(likelihood, combination):
    assert Choices(likelihood=likelihood).combination == combination


@pytest.mark.parametrize(
    ("choices", "tuned"),
    [({}, True), ({"tuning": "grid"}, False), ({"ensemble": False}, False), ({"ensemble_weights": "cost"}, False)],
)
def test_weights_are_tuned_where_they_can_be(choices, tuned):
    assert Choices(**choices).tunes_weights == tuned
