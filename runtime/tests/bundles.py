"""Small bundles written by hand, and the same arithmetic in NumPy.

A network has three exits. Stage k turns a state h (N, 4) into tanh(h W_k), and its classifier has the weights C_k
(4, 3). Classes are combined by the product of the exits with equal weights; the score is the greatest log-probability.
Several labels and numbers have no ensemble. Texts are the sum of their ids that count, spread over the state.

An estimator multiplies its inputs by C_0. The variation is the mean of their absolute values, the distance the greatest
of them in units of 3.
"""

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
from onnx import numpy_helper

EXITS, WIDTH, OUTPUTS = 3, 4, 3
COSTS = (1000, 2500, 4500)
OPSET = 20

_DTYPES = {onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.DOUBLE: "float64", onnx.TensorProto.INT64: "int64"}

_EXIT = {
    "classification": """
        member = LogSoftmax <axis = -1> (logits)
        own = Exp(member)
        terms = Mul(own, member)
        negative = ReduceSum <keepdims = 0> (terms, last)
        nats = Neg(negative)
        {ensemble}
        log_probs = LogSoftmax <axis = -1> (average)
        probs = Exp(log_probs)
        all_terms = Mul(probs, log_probs)
        all_negative = ReduceSum <keepdims = 0> (all_terms, last)
        entropy = Neg(all_negative)
        aleatoric = Min(average_nats, entropy)
        {score}
    """,
    "multilabel": """
        minus = Neg(logits)
        present_odds = Softplus(minus)
        absent_odds = Softplus(logits)
        present = Neg(present_odds)
        absent = Neg(absent_odds)
        absent_wide = Unsqueeze(absent, last)
        present_wide = Unsqueeze(present, last)
        log_probs = Concat <axis = 2> (absent_wide, present_wide)
        both = Exp(log_probs)
        terms = Mul(both, log_probs)
        negative = ReduceSum <keepdims = 0> (terms, last)
        label_aleatoric = Mul(negative, minus_half)
        {score}
    """,
    "regression": """
        mean = Identity(logits)
        epistemic_variance = Exp(logits)
        noise_variance = Mul(epistemic_variance, half)
        {score}
    """,
}

_SCORED = {
    "classification": "top = ReduceMax <keepdims = 0> (log_probs, last)",
    "multilabel": "tops = ReduceMax <keepdims = 0> (log_probs, last)\n top = ReduceMean <keepdims = 0> (tops, last)",
    "regression": "sum = ReduceMean <keepdims = 0> (logits, last)\n top = Neg(sum)",
}

_FIELDS = {
    "classification": "float[N,3] log_probs, float[N] aleatoric",
    "multilabel": "float[N,3,2] log_probs, float[N,3] label_aleatoric",
    "regression": "float[N,3] mean, float[N,3] epistemic_variance, float[N,3] noise_variance",
}

POLICY = {
    "score": "confidence",
    "unit": "macs",
    "budget": 2500.0,
    "expected": 2490.5,
    "thresholds": [-0.15, -0.3],
    "alternative": None,
    "portion": 0.0,
    "shares": [0.25, 0.35, 0.4],
    "promise": None,
    "sets": None,
}

MIXED = {**POLICY, "alternative": ["inf", -1.0], "portion": 0.4}

SETS = {
    "method": "aps",
    "coverage": 0.9,
    "by_exit": True,
    "counts": [30, 40, 50],
    "randomized": True,
    "penalty": 0.01,
    "unpenalized": 5,
    "thresholds": [0.7, 0.8, 0.9],
}


def weights(k):
    """Return W_k (4, 4) and C_k (4, 3)."""
    generator = np.random.default_rng(k)
    return (
        generator.normal(size=(WIDTH, WIDTH)).astype(np.float32),
        (2 * generator.normal(size=(WIDTH, OUTPUTS))).astype(np.float32),
    )


def graph(k, kind="classification", tokens=False, scored=True):
    """Return the ONNX model of stage k."""
    last_stage = k == EXITS - 1
    state = ["float[N,4] state_0", *(["float[N,T] state_1"] if tokens else [])]
    if kind == "classification":
        state += ["float[N,3] running_0", "float[N] running_1"]
    inputs = ["int64[N,T] input_ids", "int64[N,T] attention_mask"] if tokens else ["float[N,4] input"]
    outputs = [] if last_stage else [one.replace(" ", " next_") for one in state]
    outputs += [_FIELDS[kind]] + (["double[N] score"] if scored and not last_stage else [])
    score = f"{_SCORED[kind]}\n score = Cast <to = 11> (top)" if scored and not last_stage else ""
    body = _entry(k, tokens) + _STAGE + ("next_state_1 = Identity(values)\n" if tokens else "")
    body += _EXIT[kind].format(ensemble=_FIRST if k == 0 else _LATER, score=score)
    given = ", ".join(inputs if k == 0 else state)
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": {OPSET}]> stage ({given}) => ({", ".join(outputs)}) {{ {body} }}'
    )
    for name, array in constants(k).items():
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    rename(model)
    onnx.checker.check_model(model)
    return model


def constants(k):
    w, c = weights(k)
    return {
        "w": w,
        "c": c,
        "last": np.array([-1]),
        "spread": np.full((1, WIDTH), 0.1, np.float32),
        "step": np.array(1 / (k + 1), np.float32),
        "half": np.array(0.5, np.float32),
        "minus_half": np.array(-0.5, np.float32),
    }


def rename(model):
    """Give inputs and outputs the names of a bundle, which ONNX's text format cannot hold: "next.state.0"."""

    def dotted(name):
        return re.sub(r"^(next)_", r"\1.", re.sub(r"(state|running)_(\d)$", r"\1.\2", name))

    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [dotted(name) for name in names]
    for node in (*model.graph.input, *model.graph.output):
        node.name = dotted(node.name)


_STAGE = """
    product = MatMul(h, w)
    next_state_0 = Tanh(product)
    logits = MatMul(next_state_0, c)
"""

_FIRST = """
    average = Identity(member)
    average_nats = Identity(nats)
    next_running_0 = Identity(average)
    next_running_1 = Identity(average_nats)
"""

_LATER = """
    apart = Sub(member, running_0)
    part = Mul(apart, step)
    average = Add(running_0, part)
    nats_apart = Sub(nats, running_1)
    nats_part = Mul(nats_apart, step)
    average_nats = Add(running_1, nats_part)
    next_running_0 = Identity(average)
    next_running_1 = Identity(average_nats)
"""


def _entry(k, tokens):
    """Return the part of a graph that makes the state h before the stage."""
    if k:
        return "h = Identity(state_0)\n" + ("values = Identity(state_1)\n" if tokens else "")
    if not tokens:
        return "h = Identity(input)\n"
    return """
        counted = Mul(input_ids, attention_mask)
        values = Cast <to = 1> (counted)
        total = ReduceSum <keepdims = 1> (values, last)
        h = MatMul(total, spread)
    """


def estimator_graph():
    """Return the ONNX model of the estimator."""
    model = onnx.parser.parse_model(
        f"""<ir_version: 10, opset_import: ["": {OPSET}]>
        estimator (float[N,4] input)
            => (float[N,3] output, float[N] variation, float[N] clipped, float[N] distance) {{
            output = MatMul(input, c)
            sizes = Abs(input)
            variation = ReduceMean <keepdims = 0> (sizes, last)
            greatest = ReduceMax <keepdims = 0> (sizes, last)
            distance = Div(greatest, limit)
            clipped = Sub(distance, distance)
        }}"""
    )
    found = {"c": weights(0)[1], "last": np.array([-1]), "limit": np.array(LIMIT, np.float32)}
    for name, array in found.items():
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    onnx.checker.check_model(model)
    return model


LIMIT = 3

ESTIMATOR = {"target": "std", "teacher": {"name": "MCDropout"}, "quality": {"r_squared": 0.75, "log_error": 0.1}}


def estimated(x):
    """Return the output, the variation and the distance of inputs, in float64."""
    sizes = abs(x.astype(np.float64))
    return x.astype(np.float64) @ weights(0)[1], sizes.mean(axis=1), sizes.max(axis=1) / LIMIT


def written_graph(folder, name, model):
    """Write a graph, and return its entry in a manifest."""
    payload = model.SerializeToString()
    (folder / name).write_bytes(payload)
    return {
        "file": name,
        "sha256": hashlib.sha256(payload).hexdigest(),
        "bytes": len(payload),
        "inputs": [described(node) for node in model.graph.input],
        "outputs": [described(node) for node in model.graph.output],
    }


def write_estimator(folder, alone=False):
    """Write a bundle with an estimator, or of one alone, and return its folder."""
    folder = write(folder)
    entry = {**written_graph(folder, "estimator.onnx", estimator_graph()), **ESTIMATOR}
    edit(folder, lambda manifest: manifest.update(estimator=entry))
    if alone:
        for k in range(EXITS):
            (folder / f"stage-{k}.onnx").unlink()
        nothing = {"macs": [], "by_length": None, "length": None}
        changes = {"kind": "estimator", "exits": 0, "stages": [], "costs": nothing, "policy": None, "ensemble": "false"}
        edit(folder, lambda manifest: manifest.update(changes, likelihood="classification"))
    return folder


def write(folder, kind="classification", tokens=False, policy=POLICY, **entries):
    """Write a bundle, with other entries in its manifest if given, and return its folder."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    stages = [
        written_graph(folder, f"stage-{k}.onnx", graph(k, kind, tokens, policy is not None)) for k in range(EXITS)
    ]
    manifest = {
        "format": "suffice-bundle",
        "format_version": 1,
        "suffice": "0.1.0",
        "opset": OPSET,
        "kind": kind,
        "likelihood": kind,
        "exits": EXITS,
        "outputs": OUTPUTS,
        "class_names": ["cat", "dog", "owl"] if kind == "classification" else None,
        "preprocessing": None,
        "ensemble": "product" if kind == "classification" else "false",
        "inputs": stages[0]["inputs"],
        "padding": {"mask": "attention_mask"} if tokens else None,
        "stages": stages,
        "costs": {"macs": list(COSTS), "by_length": lengths() if tokens else None, "length": 5 if tokens else None},
        "policy": policy,
        "hashes": {"network": "0" * 64, "calibrated": "1" * 64, "policy": "2" * 64},
        "versions": {"onnx": onnx.__version__},
        **entries,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def edit(folder, change):
    """Replace the manifest of a bundle by what `change` makes of it in place."""
    file = Path(folder) / "manifest.json"
    manifest = json.loads(file.read_text())
    change(manifest)
    file.write_text(json.dumps(manifest))


def described(node):
    """Return the name, type and shape of an input or output as a manifest holds them."""
    tensor = node.type.tensor_type
    shape = [size.dim_param or size.dim_value for size in tensor.shape.dim]
    return {"name": node.name, "dtype": _DTYPES[tensor.elem_type], "shape": shape}


def text_costs(tokens):
    """Return the multiply-adds (K) of a text of some tokens, COSTS for five of them."""
    return [base + 7 * (tokens**2 - 25) * (k + 1) + 3 * (tokens - 5) for k, base in enumerate(COSTS)]


def lengths():
    return {"T": [2, 5, 11], "macs": [text_costs(tokens) for tokens in (2, 5, 11)]}


def inputs(n, seed=0):
    """Return a batch of inputs (N, 4), float32."""
    return np.random.default_rng(seed).normal(size=(n, WIDTH)).astype(np.float32)


def texts(n, tokens, seed=0):
    """Return a batch of texts: at least one token of each counts, the first ones."""
    generator = np.random.default_rng(seed)
    counts = generator.integers(1, tokens + 1, size=n)
    mask = (np.arange(tokens) < counts[:, None]).astype(np.int64)
    return {"input_ids": generator.integers(1, 9, size=(n, tokens)), "attention_mask": mask}


def expected(x):
    """Compute log-probabilities, aleatoric uncertainty and scores at every exit, in float64."""
    if isinstance(x, dict):
        h = np.repeat(0.1 * (x["input_ids"] * x["attention_mask"]).sum(axis=1, keepdims=True), WIDTH, axis=1)
    else:
        h = x.astype(np.float64)
    found, members, nats = [], [], []
    for k in range(EXITS):
        w, c = (one.astype(np.float64) for one in weights(k))
        h = np.tanh(h @ w)
        members.append(log_softmax(h @ c))
        nats.append(entropy(members[-1]))
        log_probs = log_softmax(np.mean(members, axis=0))
        found.append((log_probs, np.minimum(np.mean(nats, axis=0), entropy(log_probs)), log_probs.max(axis=1)))
    return found


def log_softmax(logits):
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def entropy(log_probs):
    return -(np.exp(log_probs) * log_probs).sum(axis=-1)


def exits(x, thresholds=(-0.15, -0.3)):
    """Return the exit (N,) of each example under thresholds."""
    scores = [score for _, _, score in expected(x)]
    stops = np.stack([scores[0] >= thresholds[0], scores[1] >= thresholds[1], np.ones_like(scores[0], dtype=bool)])
    return stops.argmax(axis=0)
