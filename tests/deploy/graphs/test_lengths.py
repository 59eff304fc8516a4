import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import suffice
from suffice import Exit, ExitNetwork
from suffice.deploy.graphs.graph import Graph, GraphModule, Probe
from suffice.deploy.graphs.lengths import admitted, shared
from suffice.deploy.graphs.templates import Template
from suffice.deploy.graphs.values import EXAMPLES, TOKENS, Value
from suffice.deploy.translation.tracing import trace
from suffice_runtime import Runner
from tests.deploy.bundles import require_exporter

pytestmark = pytest.mark.filterwarnings("ignore:.* ended at the edge of its range")


class Layer(nn.Module):
    """Embedding of tokens, with a rule of its own for their number."""

    def __init__(self, rule):
        super().__init__()
        self.table, self.positions, self.rule = nn.Embedding(20, 8), nn.Parameter(torch.randn(32, 8)), rule
        self.linear = nn.Linear(8, 8)

    def forward(self, x):
        ids, mask = self.rule(x["input_ids"], x["attention_mask"])
        h = self.linear(self.table(ids) + self.positions[: ids.shape[1]]).relu()
        return {"h": h * mask[..., None].float(), "mask": mask}


class Mean(nn.Module):
    """Mean over the tokens that count."""

    def forward(self, state):
        return state["h"].sum(dim=1) / state["mask"].sum(dim=1, keepdim=True).float()


def texts(count, tokens):
    ids = torch.randint(20, (count, tokens), generator=torch.Generator().manual_seed(tokens))
    mask = torch.ones_like(ids)
    mask[:, -1] = 0
    return {"input_ids": ids, "attention_mask": mask}


def calibrated_with(rule):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = ExitNetwork([Layer(rule)], [Exit(Mean(), nn.Linear(8, 3))]).eval()
    return suffice.calibrate(network, None, [(texts(60, 8), torch.arange(60) % 3)], structure=None)


def first_sixteen(ids, mask):
    return (ids[:, :16], mask[:, :16]) if ids.shape[1] > 16 else (ids, mask)


def doubled_if_short(ids, mask):
    return (ids, 2 * mask) if ids.shape[1] < 6 else (ids, mask)


@pytest.mark.parametrize(
    ("rule", "least", "most"),
    [(lambda ids, mask: (ids, mask), 1, 32), (first_sixteen, 1, 16), (doubled_if_short, 6, 32)],
)
def test_other_numbers_of_tokens_than_those_of_the_trace_are_refused(rule, least, most, tmp_path):
    require_exporter()
    calibrated = calibrated_with(rule)
    suffice.export(calibrated, tmp_path / "bundle", example=texts(3, 8))
    manifest = json.loads((tmp_path / "bundle" / "manifest.json").read_text())
    assert manifest["tokens"] == {"least": least, "most": most}
    runner = Runner(tmp_path / "bundle")
    for tokens in (max(least, 2), 9, most):
        x = texts(5, tokens)
        found = runner.predict({name: tensor.numpy() for name, tensor in x.items()})[-1]
        np.testing.assert_allclose(found.probs, calibrated(x)[-1].probs.numpy(), atol=1e-5)
    for tokens in (least - 1, most + 1):
        if tokens:
            x = {name: tensor.numpy() for name, tensor in texts(5, tokens).items()}
            with pytest.raises(ValueError, match=f"expected {least} to {most} tokens in a text, .* got {tokens}"):
                runner.predict(x)


def test_a_quantized_network_refuses_them_too():
    require_exporter()
    quantized = suffice.quantize(calibrated_with(first_sixteen), [texts(40, 8)])
    quantized(texts(5, 16))
    with pytest.raises(ValueError, match="expected 1 to 16 tokens, got 17"):
        quantized(texts(5, 17))


def test_another_rule_for_the_number_of_tokens_cannot_be_exported(tmp_path):
    require_exporter()
    calibrated = calibrated_with(lambda ids, mask: (ids, 2 * mask) if ids.shape[1] % 2 == 0 else (ids, mask))
    with pytest.raises(ValueError, match=r"stage 0 to be one graph for all numbers of tokens, got a branch .* % 2"):
        suffice.export(calibrated, tmp_path / "bundle", example=texts(3, 8))
    assert not (tmp_path / "bundle").exists()


def test_several_graphs_share_their_numbers_of_tokens():
    assert shared([(1, None), (6, None), (2, 16), (1, 32)]) == (6, 16)
    assert shared([(1, None)]) == (1, None)


@pytest.mark.parametrize(
    ("guard", "expected"),
    [
        ("{ids} == {mask}", (1, None)),
        ("{ids} + ((-1)*{mask}) <= 0", (1, None)),
        ("(({rows}*{ids}) % {rows}) == 0", (1, None)),
        ("{ids} == {mask} or {ids} == 1", (1, None)),
        ("{ids} >= 2", (1, None)),
        ("((-1) + {ids}) != 1", (3, None)),
        ("{ids} > 2", (3, None)),
        ("{ids} <= 16", (1, 16)),
        ("{ids} < 5000", (1, 4999)),
        ("2*{ids} <= 2048 and {ids} >= 6", (6, 1024)),
        ("{rows} >= 2", (1, None)),
        ("{ids} != {rows}", None),
        ("({ids} % 2) == 0", None),
        ("{ids} != 7", None),
        ("{other} <= 16", None),
        ("__import__('os')", None),
        ("Max({ids}, 3) <= 5", None),
    ],
)
def test_a_guard_admits_the_numbers_of_tokens_for_which_it_holds(guard, expected):
    values = [Value("ids", "int64", ("N", "T")), Value("mask", "int64", ("N", "T")), Value("x", "int64", ("N", "x.1"))]
    graph = SimpleNamespace(what="stage 0", before=SimpleNamespace(values=values))
    axis = "L['tensors'][{}].size()[{}]".format
    guard = guard.format(ids=axis(0, 1), mask=axis(1, 1), rows=axis(1, 0), other=axis(2, 1))
    program = SimpleNamespace(_guards_code=[guard])  # cannot be run
    if expected is None:
        with pytest.raises(ValueError, match="stage 0 to be one graph for all numbers of tokens, got a branch"):
            admitted(program, graph)
    else:
        assert admitted(program, graph) == expected


class Doubled(GraphModule):
    """Module that doubles its inputs, or triples them for some sizes."""

    def __init__(self, special):
        super().__init__(Template.of(()))
        self.special = special

    def forward(self, *tensors):
        ids, mask = tensors
        return self.note((), {"sum": ids * (3 if self.special(*ids.shape) else 2) + mask})


@pytest.mark.parametrize("guard", ["{ids} != 7", "{ids} != {rows}", "8*{ids} != 64", "({ids} % 128) != 100"])
@pytest.mark.parametrize("special", [False, True])
def test_single_sizes_that_a_guard_excludes_are_admitted_if_the_graph_is_right_for_them(guard, special):
    def is_excluded(rows, tokens):
        return special and (tokens in (7, 8, 100, 228, 356, 484) or rows == tokens)

    sizes = {EXAMPLES: (3, 2), TOKENS: (6, 4)}
    first, second = ({name: torch.ones(shape).long() for name in ("ids", "mask")} for shape in ((3, 6), (2, 4)))
    module = Doubled(is_excluded)
    graph = Graph("stage 0", "stage-0", module, Probe(Template.of(()), first, second, sizes), [], Template.of(()))
    program = trace(graph)
    axis = "L['tensors'][0].size()[{}]".format
    object.__setattr__(program, "_guards_code", [guard.format(ids=axis(1), rows=axis(0))])
    if special:
        with pytest.raises(ValueError, match="stage 0 to be one graph for all numbers of tokens"):
            admitted(program, graph)
    else:
        assert admitted(program, graph) == (1, None)
