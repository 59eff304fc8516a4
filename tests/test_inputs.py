from collections import OrderedDict, UserDict, namedtuple
from types import MappingProxyType

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence

import suffice
from suffice import cost
from suffice.attach.plain import as_exit_network
from suffice.calibration import density
from suffice.inputs import prepare
from suffice.network import select
from suffice.variation.baselines import delta_rule, last_layer
from suffice.variation.features import strengths
from tests import builders

N = 24


class Model(nn.Module):
    """Token ids and numbers, of which the numbers may be left out."""

    def __init__(self):
        super().__init__()
        self.embedding, self.numbers = nn.Embedding(20, 8), nn.Linear(3, 8)
        self.relu, self.dropout, self.head = nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 4)

    def forward(self, ids, x=None):
        return self.head(self.dropout(self.relu(self.embedding(ids).mean(1) + (0 if x is None else self.numbers(x)))))


class Dict(dict):
    pass


X = {"ids": torch.arange(N * 5).reshape(N, 5) % 20, "x": torch.linspace(-1, 1, N * 3).reshape(N, 3).double()}
Y = torch.arange(N) % 4
PLAIN = {"ids": X["ids"], "x": X["x"].float()}
FORMS = {
    "float64": X,
    "numpy": {key: value.numpy() for key, value in X.items()},
    "unsigned": {**X, "ids": X["ids"].to(torch.uint16)},
    "UserDict": UserDict(X),
    "OrderedDict": OrderedDict(X),
    "subclass": Dict(X),
    "proxy": MappingProxyType(X),
    "other order": dict(reversed(X.items())),
    "with labels": UserDict(**X, labels=Y),
}


@pytest.fixture(scope="module")
def fitted():
    torch.manual_seed(0)
    model = Model()
    calibrated = suffice.calibrate(model, [(PLAIN, Y)], None, tuning="evidence")
    teacher = suffice.MCDropout(passes=4)
    others = {**PLAIN, "x": -PLAIN["x"]}
    return {
        "model": model,
        "calibrated": calibrated,
        "policy": suffice.allocate(calibrated, [PLAIN], 1.0),
        "estimator": suffice.fit_variation(model, [PLAIN], [others], teacher=teacher, epochs=1),
        "buckets": suffice.fit_buckets(model, [PLAIN], [others], teacher=teacher, epochs=1),
        "density": density.fit(model, [(PLAIN, Y)]),
        "teacher": teacher,
    }


def generator():
    return torch.Generator().manual_seed(0)


def calibrate(model, x):
    return suffice.calibrate(model, [(x, Y)], None, tuning="evidence", generator=generator())


ENTRIES = {
    "call": lambda f, x: f["calibrated"](x)[-1].probs,
    "anytime": lambda f, x: [p.probs for p in f["calibrated"].anytime(x)][-1],
    "moments": lambda f, x: f["calibrated"].moments(x)[-1].variance,
    "joint_samples": lambda f, x: f["calibrated"].joint_samples(x, 3, generator=generator())[-1],
    "logit_samples": lambda f, x: f["calibrated"].logit_samples(x),
    "step": lambda f, x: f["calibrated"].step(0, x, None)[1].probs,
    "run": lambda f, x: suffice.run(f["calibrated"], f["policy"], x, buckets=[N + 8]).probs,
    "run_stream": lambda f, x: next(s.answer.probs for s in suffice.run_stream(f["calibrated"], f["policy"], [x])),
    "update": lambda f, x: f["calibrated"].update([x])(PLAIN)[-1].probs,
    "density": lambda f, x: f["density"](x),
    "MCDropout": lambda f, x: f["teacher"](f["model"], x, generator=generator())["std"],
    "EnsembleTeacher": lambda f, x: suffice.EnsembleTeacher([f["model"], f["model"]])(f["model"], x).mean,
    "LaplaceTeacher": lambda f, x: suffice.LaplaceTeacher(f["calibrated"].logit_samples)(f["model"], x)["std"],
    "estimator": lambda f, x: f["estimator"].estimate(x).variation,
    "audit": lambda f, x: torch.tensor(f["estimator"].audit(x, 4, generator=generator()).bias),
    "cascade": lambda f, x: f["estimator"].cascade(x, 4, lambda e: e.variation > 0, generator=generator()).variation,
    "buckets": lambda f, x: f["buckets"](x)[1],
    "delta_rule": lambda f, x: delta_rule.delta_rule(f["model"], x),
    "last_layer": lambda f, x: last_layer.last_layer(f["model"], x).variance,
    "strengths": lambda f, x: strengths.capture(f["model"], x, ["relu"])[1]["relu"],
    "macs": lambda f, x: torch.tensor(cost.macs(f["model"], x)),
    "count": lambda f, x: torch.tensor(cost.count(f["calibrated"].network, x).cumulative),
    "profile": lambda f, x: torch.tensor(cost.profile(f["calibrated"], x, [1], repeats=1).batch_size),
    "as_exit_network": lambda f, x: as_exit_network(f["model"], x).eval()(PLAIN)[-1],
    "attach_exits": lambda f, x: suffice.attach_exits(f["model"], at=["relu"], example=x).eval()(PLAIN)[-1].detach(),
    "calibrate": lambda f, x: calibrate(f["model"], x)(PLAIN)[-1].probs,
}


@pytest.mark.parametrize("entry", ENTRIES)
def test_the_same_values_give_the_same_answers_in_any_container_and_type(fitted, entry):
    expected = ENTRIES[entry](fitted, PLAIN)
    for form, x in FORMS.items():
        assert torch.equal(ENTRIES[entry](fitted, x), expected), form


@pytest.mark.parametrize("entry", ENTRIES)
def test_inputs_with_another_number_of_rows_are_refused_by_name(fitted, entry):
    with pytest.raises(ValueError, match=r"for each of 24 examples, got 1 rows at \['x'\], .*\.expand\(24, …\)"):
        ENTRIES[entry](fitted, {**PLAIN, "x": PLAIN["x"][:1]})


def test_optional_inputs_may_be_left_out_or_none(fitted):
    expected = fitted["calibrated"]({"ids": X["ids"]})[-1].probs
    assert torch.equal(fitted["calibrated"](UserDict(ids=X["ids"], x=None))[-1].probs, expected)
    assert not torch.equal(fitted["calibrated"](PLAIN)[-1].probs, expected)


def test_batches_of_a_stream_may_have_their_keys_in_any_order(fitted):
    halves = [select(PLAIN, torch.arange(start, start + 12)) for start in (0, 12)]
    stream = suffice.run_stream(fitted["calibrated"], fitted["policy"], [halves[0], dict(reversed(halves[1].items()))])
    probs = torch.cat([served.answer.probs for served in stream])
    torch.testing.assert_close(probs, fitted["calibrated"](PLAIN)[-1].probs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_inputs_follow_a_network_in_another_type(dtype):
    network = builders.network().to(dtype)
    x = builders.inputs(12)
    labels = torch.arange(12) % network.num_classes
    calibrated = suffice.calibrate(network, None, [(x, labels)], structure=None, temperature=False)
    assert torch.equal(calibrated(x)[-1].probs, calibrated(x.to(dtype))[-1].probs)


def test_tensors_of_inference_mode_are_copied_where_gradients_are_needed(fitted):
    with torch.inference_mode():
        x = {key: value.clone() for key, value in PLAIN.items()}
    assert torch.equal(ENTRIES["delta_rule"](fitted, x), ENTRIES["delta_rule"](fitted, PLAIN))


Pair = namedtuple("Pair", "ids x")


def test_containers_keep_their_structure_and_order_and_values_that_are_no_tensors_stay():
    x = Pair(ids=[X["ids"], "name"], x=(X["x"], UserDict(b=X["x"], a=None)))
    got = prepare(x, Model())
    assert type(got) is Pair
    assert got.ids[1] == "name"
    assert type(got.x[1]) is dict
    assert list(got.x[1]) == ["b", "a"]
    assert got.x[1]["a"] is None
    assert got.x[0].dtype == torch.float32


def test_arrays_of_any_strides_byte_order_and_writability_are_inputs():
    array = np.arange(12, dtype=">f8").reshape(4, 3)[::-1]
    array.flags.writeable = False
    assert torch.equal(prepare(array, Model()), torch.arange(12.0).reshape(4, 3).flip(0))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (pack_sequence([torch.zeros(3, 2), torch.zeros(1, 2)]), "a PackedSequence; pass the padded sequences"),
        ({"x": X["x"], "scale": torch.tensor(2.0)}, r"a single number at \['scale'\] as a tensor; pass it as a Python"),
        (
            [X["x"], torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)], layout=torch.jagged)],
            r"a nested tensor at \[1\]; pad it",
        ),
        ({"ids": [[1, 2], [3, 4]]}, "got a list at 'ids'; pass torch.tensor"),
        (X["x"].tolist(), "got a list; pass torch.tensor"),
        ("text", "got a str; pass torch.tensor"),
    ],
)
def test_inputs_whose_examples_cannot_be_selected_are_refused_by_name(x, message):
    with pytest.raises(TypeError, match=message):
        prepare(x, Model())


def test_an_error_of_a_model_names_the_shapes_of_its_inputs_and_a_pair():
    model, x, y = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).eval(), torch.randn(4, 3), torch.arange(4) % 2
    calibrated = suffice.calibrate(model, [(x, y)], [(x, y)], structure=None)
    for run in (calibrated, lambda x: suffice.attach_exits(model, at=["0"], example=x)):
        with pytest.raises(RuntimeError) as wrong_width:
            run(torch.zeros(4, 5))
        assert "of shape (4, 5) torch.float32" in wrong_width.value.__notes__[0]
        with pytest.raises(TypeError) as pair:
            run((x, y))
        assert "pass x alone, if this is a pair (x, y)" in pair.value.__notes__[0]
