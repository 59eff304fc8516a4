"""Graphs in 8-bit integers are as close as rounding allows, on processors that would saturate too."""

import numpy as np
import pytest

from suffice.deploy.quantization import int8, outliers

onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
helper = pytest.importorskip("onnx.helper")
OPSET = 20


def graph(nodes, inputs, outputs, **constants):
    """Return the bytes of a graph of float32 tensors, whose first dimension is dynamic."""
    infos = [
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", *shape]) for name, shape in named.items()]
        for named in (inputs, outputs)
    ]
    initializers = [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()]
    made = helper.make_graph(nodes, "graph", *infos, initializers)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def linear(weight, bias):
    """Return the graph of a linear layer with weights (C, D)."""
    node = helper.make_node("Gemm", ["x", "weight", "bias"], ["y"], transB=1)
    return graph([node], {"x": weight.shape[1:]}, {"y": weight.shape[:1]}, weight=weight, bias=bias)


def run(payload, **inputs):
    return onnxruntime.InferenceSession(payload, providers=["CPUExecutionProvider"]).run(None, inputs)[0]


def operators(payload):
    """Return the types of the operators whose inputs are all of 8 bits, and those of all others."""
    nodes = onnx.load_from_string(payload).graph.node
    dequantized = {node.output[0] for node in nodes if node.op_type == "DequantizeLinear"}
    conversions = ("QuantizeLinear", "DequantizeLinear")
    return {node.op_type for node in nodes if node.op_type not in conversions and dequantized.issuperset(node.input)}


def bound(weight, bias, x):
    """Return a bound (N, C) on the error of a quantized linear layer.

    Weights of channel c are rounded to multiples of max|W_c| / 63 or less, activations to 255 steps from the least to
    the greatest, 0 among them, the bias to multiples of the product of both steps, and the result to 255 steps of its
    own.
    """
    steps = np.abs(weight).max(axis=1) / 63
    step, reach = np.ptp([*x.ravel(), 0]) / 255, np.ptp([*(x @ weight.T + bias).ravel(), 0])
    width = weight.shape[1]
    products = np.abs(x).sum(axis=1)[:, None] * steps / 2 + np.abs(weight).sum(axis=1) * step / 2
    inside = products + (width / 4 + 1 / 2) * step * steps
    return 1.001 * (inside + (reach + 2 * inside.max()) / 255)


@pytest.mark.numerics
def test_a_linear_layer_is_rounded_and_no_more():
    rng = np.random.default_rng(0)
    weight, bias = rng.normal(size=(5, 16)).astype(np.float32), rng.normal(size=5).astype(np.float32)
    weight *= np.logspace(-2, 2, 5, dtype=np.float32)[:, None]  # each channel has a scale
    x = rng.normal(size=(200, 16)).astype(np.float32)
    payload = int8.quantize_graph(linear(weight, bias), [{"x": x[:100]}, {"x": x[100:]}], 0)
    assert operators(payload) == {"Gemm"}
    error = np.abs(run(payload, x=x) - (x @ weight.T + bias))
    assert (error <= bound(weight, bias, x)).all()
    assert error.max() > 0


@pytest.mark.numerics
def test_the_largest_weights_and_activations_do_not_saturate():
    weight, bias = np.ones((4, 64), np.float32), np.zeros(4, np.float32)
    x = np.vstack([np.ones((6, 64)), np.zeros((1, 64))]).astype(np.float32)
    payload = int8.quantize_graph(linear(weight, bias), [{"x": x}], 0)
    assert (np.abs(run(payload, x=x) - x @ weight.T) <= bound(weight, bias, x)).all()


def test_scales_are_those_of_all_batches():
    weight, bias = np.eye(3, dtype=np.float32), np.zeros(3, np.float32)
    small, large = np.full((2, 3), 0.1, np.float32), np.full((2, 3), 10.0, np.float32)
    x = np.vstack([small, large])
    for feeds in ([small, large], [large, small]):
        payload = int8.quantize_graph(linear(weight, bias), [{"x": feed} for feed in feeds], 0)
        assert (np.abs(run(payload, x=x) - x) <= bound(weight, bias, x)).all()


def two_layers(first, second, between):
    """Return the graph of two linear layers without biases, with an operator between them."""
    nodes = [
        helper.make_node("MatMul", ["x", "first"], ["h"]),
        helper.make_node(between, ["h"], ["positive"]),
        helper.make_node("MatMul", ["positive", "second"], ["y"]),
    ]
    return graph(nodes, {"x": first.shape[:1]}, {"y": second.shape[1:]}, first=first, second=second)


@pytest.mark.parametrize(("between", "stays"), [("Exp", True), ("Relu", False)])
def test_a_layer_with_a_few_very_large_activations_stays_in_float32(between, stays):
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 16, 16)).astype(np.float32)  # exp(h) of h with a deviation of 4
    x = rng.normal(size=(2000, 16)).astype(np.float32)
    payload = int8.quantize_graph(two_layers(first, second, between), [{"x": x[:500]}, {"x": x[500:]}], 0)
    weights = [node.input[1] for node in onnx.load_from_string(payload).graph.node if node.op_type == "MatMul"]
    assert len(weights) == 2
    assert weights[0] != "first"  # which is the rounded one
    assert (weights[1] == "second") == stays


def test_a_stage_all_of_whose_layers_stay_in_float32_is_named():
    weight, bias = np.eye(64, dtype=np.float32), np.zeros(64, np.float32)
    x = np.full((100, 64), 1e-3, np.float32)
    x[0, 0] = 10
    with pytest.warns(UserWarning, match="activations of similar size in stage 2, got a few .* stays in float32"):
        payload = int8.quantize_graph(linear(weight, bias), [{"x": x}], 2)
    np.testing.assert_array_equal(run(payload, x=x), x)


@pytest.mark.numerics
def test_the_ratio_is_that_of_signal_and_rounding_error():
    x = np.random.default_rng(0).normal(size=(1000, 100)).astype(np.float32)
    model = onnx.load_from_string(linear(np.eye(100, dtype=np.float32), np.zeros(100, np.float32)))
    found = outliers._signal_to_noise(model, {"x"}, [{"x": x[:300]}, {"x": x[300:]}])["x"]
    step = np.ptp(x) / 255
    noise = np.mean((np.round(x.astype(np.float64) / step) * step - x) ** 2)
    # the mean square error of n values is that of a uniform one, step² / 12, to a relative √(0.8 / n)
    assert found == pytest.approx(
        10 * np.log10(np.mean(x.astype(np.float64) ** 2) / noise), abs=5 * 4.35 * (0.8 / x.size) ** 0.5
    )


def product(name, left, right, out):
    return helper.make_node(name, [left, right], [out])


def test_sums_before_a_softmax_stay_in_float32():
    weight = np.eye(3, dtype=np.float32)
    nodes = [product("MatMul", "x", "weight", "h"), helper.make_node("Tanh", ["h"], ["scores"])]
    attention = [*nodes, product("Add", "scores", "mask", "masked"), helper.make_node("Softmax", ["masked"], ["y"])]
    mask = np.array([0, 0, -np.inf], np.float32)
    x = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    payload = int8.quantize_graph(graph(attention, {"x": [3]}, {"y": [3]}, weight=weight, mask=mask), [{"x": x}], 0)
    assert operators(payload) == {"MatMul", "Tanh"}  # whose input is the rounded result
    found = run(payload, x=x)
    assert np.isfinite(found).all()
    assert (found[:, 2] == 0).all()


def test_sums_elsewhere_are_quantized():
    weight = np.eye(3, dtype=np.float32)
    relu = helper.make_node("Relu", ["h"], ["positive"])
    nodes = [product("MatMul", "x", "weight", "h"), relu, product("Add", "x", "positive", "y")]
    payload = int8.quantize_graph(graph(nodes, {"x": [3]}, {"y": [3]}, weight=weight), [{"x": np.eye(3, dtype="f")}], 0)
    assert operators(payload) == {"MatMul", "Add"}


def test_a_graph_without_a_linear_layer_is_refused_by_its_stage():
    nodes = [helper.make_node("Relu", ["x"], ["h"]), product("MatMul", "h", "x", "y")]
    made = graph(nodes, {"x": ["N"]}, {"y": ["N"]})
    with pytest.raises(
        ValueError, match=r"a convolution or a linear layer in stage 2 .*got none.*export the network in"
    ):
        int8.quantize_graph(made, [{"x": np.eye(3, dtype=np.float32)}], 2)


def test_activations_that_are_infinite_are_refused_by_their_stage():
    weight, bias = np.eye(3, dtype=np.float32), np.array([0, 0, -np.inf], np.float32)
    with pytest.raises(ValueError, match=r"finite activations in stage 1, .*masked_fill"):
        int8.quantize_graph(linear(weight, bias), [{"x": weight}], 1)


def test_the_same_batches_give_the_same_bytes():
    weight, bias = np.eye(3, dtype=np.float32), np.zeros(3, np.float32)
    made = [int8.quantize_graph(linear(weight, bias), [{"x": weight}], 0) for _ in range(2)]
    assert made[0] == made[1]
