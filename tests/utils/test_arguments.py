"""Arguments of another kind are refused by name, by the verb that they are passed to."""

import functools

import numpy as np
import pytest
import torch
from torch import nn

import suffice
from suffice.budget import drift
from suffice.utils import arguments

X, Y = torch.randn(40, 4, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 3
LOADER = [(X, Y)]
MODEL = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3))


@functools.cache
def network():
    stages = [nn.Linear(4, 8), nn.Sequential(nn.ReLU(), nn.Linear(8, 8))]
    return suffice.ExitNetwork(stages, [suffice.Exit(nn.ReLU(), nn.Linear(8, 3)) for _ in stages])


@functools.cache
def calibrated():
    return suffice.calibrate(network(), LOADER, None, tuning="evidence")


@functools.cache
def policy():
    return suffice.allocate(calibrated(), LOADER, budget=1.0)


VERBS = {
    "calibrate": lambda **choices: suffice.calibrate(network(), LOADER, LOADER, **choices),
    "allocate": lambda budget=1.0, **choices: suffice.allocate(calibrated(), LOADER, budget, **choices),
    "run": lambda **choices: suffice.run(calibrated(), policy(), X, **choices),
    "run_stream": lambda batches=(X,), **choices: suffice.run_stream(calibrated(), policy(), batches, **choices),
    "control_risk": lambda **choices: suffice.control_risk(calibrated(), LOADER, **choices),
    "conformalize": lambda coverage: suffice.conformalize(calibrated(), policy(), LOADER, coverage=coverage),
    "attach_exits": lambda at=("1",), **choices: suffice.attach_exits(MODEL, at=at, example=X, **choices),
    "fit_variation": lambda **choices: suffice.fit_variation(
        MODEL, LOADER, LOADER, **{"teacher": suffice.MCDropout(passes=10), **choices}
    ),
    "MCDropout": suffice.MCDropout,
    "EnsembleTeacher": suffice.EnsembleTeacher,
    "LaplaceTeacher": suffice.LaplaceTeacher,
    "track": drift.track,
    "with_temperature": lambda value: calibrated().with_temperature(value),
    "with_prior": lambda value: calibrated().with_prior(value),
    "anytime": lambda value: calibrated().anytime(X, value),
    "joint_samples": lambda samples=4, **choices: calibrated().joint_samples(X, samples, **choices),
}

REFUSED = [
    ("calibrate", {"class_precision": [1.0, 2.0, 3.0]}, "class_precision as a tensor"),
    ("calibrate", {"bias_precision": "1"}, "bias_precision as a number above 0"),
    ("calibrate", {"samples": 16.0}, "samples as a whole number"),
    ("calibrate", {"temperature": "no"}, "temperature=True or temperature=False"),
    ("calibrate", {"temperature": 2.0}, "temperature=True or temperature=False"),
    ("calibrate", {"costs": 3}, "costs as suffice.cost.Costs"),
    ("calibrate", {"generator": 0}, "a torch.Generator or None"),
    ("allocate", {"budget": "half"}, "budget as a number"),
    ("allocate", {"budget": None}, "budget as a number"),
    ("allocate", {"profile": 3}, "a profile of suffice.cost.profile"),
    ("run", {"buckets": 32}, "buckets as a sequence of batch sizes"),
    ("run", {"buckets": "32"}, "buckets as a sequence of batch sizes"),
    ("run", {"buckets": [8.0]}, "a size in buckets as a whole number"),
    ("run_stream", {"batches": X}, "an iterable of batches"),
    ("run_stream", {"batches": {"x": X}}, "an iterable of batches"),
    ("run_stream", {"size": "x"}, "size as a whole number"),
    ("run_stream", {"delay": 1.5}, "delay as a whole number"),
    ("control_risk", {"max_loss": "x"}, "max_loss as a number"),
    ("control_risk", {"confidence": "x"}, "confidence as a number or None"),
    ("conformalize", {"coverage": True}, "a coverage as a number between 0 and 1"),
    ("conformalize", {"coverage": "x"}, "a coverage as a number between 0 and 1"),
    ("attach_exits", {"at": 3}, "names of modules"),
    ("attach_exits", {"freeze": "no"}, "freeze=True or freeze=False"),
    ("fit_variation", {"hidden": 8}, "hidden as a sequence of widths"),
    ("fit_variation", {"hidden": (8.0,)}, "a width in hidden as a whole number"),
    ("fit_variation", {"epochs": "x"}, "epochs as a whole number"),
    ("fit_variation", {"delta": "no"}, "delta=True or delta=False"),
    ("fit_variation", {"generator": 0}, "a torch.Generator or None"),
    ("MCDropout", {"passes": "10"}, "passes as a whole number"),
    ("MCDropout", {"passes": 10.0}, "passes as a whole number"),
    ("MCDropout", {"rate": "x"}, "a dropout rate as a number"),
    ("MCDropout", {"rate": True}, "a dropout rate as a number"),
    ("MCDropout", {"at": 3}, "at as names of modules"),
    ("EnsembleTeacher", {"models": MODEL}, "a list of models"),
    ("EnsembleTeacher", {"models": 3}, "a list of models"),
    ("LaplaceTeacher", {"samples": 3}, "a function from a batch to samples"),
    ("track", {"policy": "x"}, "a policy of suffice.allocate"),
    ("with_temperature", {"value": "x"}, "temperature as a number"),
    ("with_prior", {"value": [1, "x"]}, "prior_precision as a number"),
    ("anytime", {"value": "x"}, "deadline_ms as a number"),
    ("joint_samples", {"samples": 2.0}, "samples as a whole number"),
    ("joint_samples", {"generator": 0}, "a torch.Generator or None"),
]


@pytest.mark.parametrize(
    ("verb", "choices", "expected"), REFUSED, ids=[f"{verb}-{expected}" for verb, _, expected in REFUSED]
)
def test_an_argument_of_another_kind_is_refused_by_name(verb, choices, expected):
    with pytest.raises(TypeError, match=f"^expected {expected}.* got "):
        VERBS[verb](**choices)


def test_a_calibrated_network_as_samples_of_a_teacher_is_refused_with_the_remedy():
    with pytest.raises(TypeError, match=r"as a tensor, got list; pass calibrated.logit_samples"):
        suffice.LaplaceTeacher(calibrated())(network(), X)


def test_numbers_of_numpy_and_torch_are_numbers():
    assert arguments.whole("n", np.int64(3)) == arguments.whole("n", torch.tensor(3)) == 3
    assert arguments.number("x", np.float32(0.5)) == arguments.number("x", torch.tensor(0.5)) == 0.5
    assert arguments.number("x", 2) == 2.0
    assert arguments.flag("f", np.bool_(True)) is True


@pytest.mark.parametrize("value", [0, -1.0, float("inf"), float("nan")])
def test_a_positive_number_is_finite_and_above_0(value):
    with pytest.raises(ValueError, match="expected x as a number above 0, got"):
        arguments.positive("x", value)


def test_a_whole_number_has_a_least_value():
    with pytest.raises(ValueError, match="expected n of at least 2, got 1"):
        arguments.whole("n", 1, least=2)
