import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional

import suffice
from suffice.variation.features.activations import caller_of
from suffice.variation.features.strengths import are_layers, capture, layer_names
from suffice.variation.fitting import fit_variation
from suffice.variation.joint import JointHead
from suffice.variation.teachers.dropout import MCDropout
from tests.variation.fits import seeded

TEACHER = MCDropout(passes=4)


class Formula(nn.Module):
    """Activation as a library writes it, by a formula."""

    def forward(self, x):
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


class Gelu(nn.Module):
    """Activation that keeps its function in an attribute."""

    def __init__(self):
        super().__init__()
        self.act = functional.gelu

    def forward(self, x):
        return self.act(x)


class Layer(nn.Module):
    """Layer without submodules that calls an activation, but has a matrix of weights."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, width))

    def forward(self, x):
        return (x @ self.weight).relu() @ self.weight


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.gate = nn.Linear(4, 4), nn.Parameter(torch.randn(4))

    def forward(self, x):
        return x + self.linear(x).sigmoid() * torch.tanh(self.gate)  # the second is no strength: it has no examples


class Functional(nn.Module):
    """Model that calls its activations as functions, methods and modules made in its forward."""

    def __init__(self):
        super().__init__()
        self.first, self.block, self.last = nn.Linear(3, 4), Block(), nn.Linear(4, 4)
        self.formula, self.drop = Formula(), nn.Dropout(0.3)

    def forward(self, x):
        h = torch.relu(self.first(x))
        h = functional.relu(self.block(self.formula(h)))
        if x.sum() > 1e9:  # control flow that no trace follows
            h = h.tanh()
        return self.last(self.drop(nn.SiLU()(h)))


def inputs(n, width=3, seed=0):
    return torch.randn(n, width, generator=seeded(seed))


def encoder():
    layer = nn.TransformerEncoderLayer(8, 2, 16, 0.1, batch_first=True)
    return nn.Sequential(
        nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Flatten(), nn.Linear(40, 3)
    ).eval()


def test_calls_are_named_by_module_function_and_occurrence_in_the_order_of_the_model():
    assert layer_names(Functional(), inputs(1), None) == (
        *(":relu", ":relu:2", ":silu"),
        *("block:sigmoid", "formula"),
    )
    assert layer_names(Functional(), inputs(5), "last") == (":silu",)
    assert layer_names(Functional(), inputs(5), ["*:sigmoid", "last", ":relu:2"]) == (
        ":relu:2",
        "block:sigmoid",
        "last",
    )
    with pytest.raises(ValueError, match="got 'block:tanh', which matches no module"):
        layer_names(Functional(), inputs(5), ["block:tanh"])


def test_activations_of_libraries_are_recognized_by_what_they_do():
    model = nn.Sequential(nn.Linear(3, 4), Formula(), Gelu(), Layer(4), nn.Dropout(0.1), nn.LayerNorm(4), nn.PReLU(4))
    assert layer_names(model, inputs(2), None) == ("1", "2", "3:relu", "6")


@pytest.mark.parametrize(
    "name", ["GELUActivation", "NewGELUActivation", "SiLUActivation", "QuickGELUActivation", "ReLUSquaredActivation"]
)
def test_activations_of_transformers_are_recognized(name):
    activations = pytest.importorskip("transformers.activations")
    model = nn.Sequential(nn.Linear(3, 4), getattr(activations, name)())
    assert layer_names(model, inputs(2), None) == ("1",)


def test_the_output_of_a_call_is_read_and_the_output_of_the_model_does_not_change():
    model, x = Functional().eval(), inputs(6)
    output, strengths = capture(model, x, [":relu", "block:sigmoid", "formula"])
    with torch.no_grad():
        hidden = model.first(x).relu()
        assert torch.equal(output, model(x))
    assert torch.equal(strengths[":relu"], hidden)
    assert torch.equal(strengths["block:sigmoid"], model.block.linear(model.formula(hidden)).sigmoid())
    assert torch.equal(strengths["formula"], model.formula(hidden))


def test_a_call_that_is_not_made_is_an_error():
    with pytest.raises(RuntimeError, match=r"function to be called in a pass, but \[':relu:3'\] were not"):
        capture(Functional(), inputs(2), [":relu:3"])


def test_a_module_whose_name_looks_like_a_call_is_read_as_a_module():
    model = nn.ModuleDict({"a:relu": nn.Linear(3, 2)})
    model.forward = lambda x: model["a:relu"](x)
    output, strengths = capture(nn.Sequential(model), inputs(4), ["0.a:relu"])
    assert torch.equal(strengths["0.a:relu"], output)


def test_names_of_calls_are_parsed():
    names = {"": ":relu", "a.b": "a.b:gelu:12", "a:relu": "a:relu:tanh:2"}
    assert {caller_of(name): name for name in names.values()} == names
    assert [caller_of(name) for name in ("a", "a:b", "a:relu:1", "a:relu:02", ":relu:", "relu")] == [None] * 6


def test_layers_of_an_artifact_are_modules_and_calls_in_order():
    model = Functional()
    assert are_layers(model, (":relu", ":relu:2", "block:sigmoid", "formula"))
    for wrong in (("formula", ":relu"), (":relu", ":relu"), ("nothing:relu",), ("block:add",), ("",)):
        assert not are_layers(model, wrong)


@pytest.mark.parametrize("layers", [None, "last", "auto"])
@pytest.mark.filterwarnings("ignore:.* inputs are outside")  # one by one, of a few rows
def test_an_estimator_of_a_functional_model_survives_saving_and_depends_on_no_company(layers, tmp_path):
    model, x = Functional(), inputs(64)
    estimator = fit_variation(model, [x], [-x[:32]], teacher=TEACHER, layers=layers, epochs=2, generator=seeded())
    suffice.save(estimator, tmp_path / "estimator")
    again = suffice.load(tmp_path / "estimator", network=copy.deepcopy(model))
    assert again.layers == estimator.layers
    output, variation = again(x)
    assert torch.equal(variation, estimator(x)[1])
    assert torch.equal(output, model.eval()(x))
    torch.testing.assert_close(torch.cat([again(row)[1] for row in x.split(1)]), variation, rtol=1e-4, atol=1e-7)


def test_a_transformer_encoder_is_read_by_default_on_its_unfused_path():
    model, x = encoder(), torch.randn(24, 5, 8, generator=seeded())
    estimator = fit_variation(model, [x], [-x], teacher=TEACHER, epochs=1, generator=seeded())
    assert estimator.layers == ("0.layers.0:relu", "0.layers.1:relu")
    assert torch.equal(estimator(x)[0], model(x))  # with gradients enabled, torch does not fuse the layer either


def test_the_joint_head_and_buckets_read_functional_models():
    model, x = Functional(), inputs(40)
    head = JointHead(model, teacher=TEACHER)
    head.step(x)
    assert head.finish([x]).layers == layer_names(model, x, None)
    assert suffice.fit_buckets(model, [x], [-x], teacher=TEACHER, epochs=1)(x)[1].shape == (40, 2)


@pytest.mark.parametrize("fit", ["variation", "buckets", "joint"])
def test_a_model_that_is_random_in_evaluation_mode_is_refused_whatever_the_teacher(fit):
    class Always(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Linear(3, 4)

        def forward(self, x):
            return functional.dropout(self.layers(x).relu(), 0.3)

    def never(model, x, *, generator=None):
        raise AssertionError("the teacher ran")

    never.likelihood = "classification"
    model, x = Always(), inputs(20)
    fits = {
        "variation": lambda: fit_variation(model, [x], [x], teacher=never),
        "buckets": lambda: suffice.fit_buckets(model, [x], [x], teacher=never),
        "joint": lambda: JointHead(model, teacher=never).step(x),
    }
    with pytest.raises(ValueError, match="deterministic in evaluation mode, got random numbers from bernoulli_"):
        fits[fit]()
