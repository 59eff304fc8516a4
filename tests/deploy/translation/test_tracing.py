"""Stages that cannot become one graph are refused with their number, the line and the remedy."""

import inspect
import re

import pytest
import torch
from torch import nn

import suffice
from tests import builders
from tests.deploy import bundles

X = builders.inputs(30)


class Branching(nn.Module):
    def forward(self, x):
        if x.abs().max() > 100:
            return -x
        return x


class NumberOfValues(nn.Module):
    def forward(self, x):
        return x * float(x.sum())


class LengthTaken(nn.Module):
    def forward(self, x):
        return x + x.new_zeros(len(x), 1)


class LengthAsInt(nn.Module):
    def forward(self, x):
        return x.view(int(x.shape[0]), -1)


class ThroughNumPy(nn.Module):
    def forward(self, x):
        return torch.from_numpy(x.numpy() * 2)


class Bessel(nn.Module):
    def forward(self, x):
        return torch.special.bessel_j0(x)


def refused(module, stage, folder):
    """Return the message by which a network with a module before a stage is refused."""
    network = builders.network(WIDTHS)
    network.stages[stage] = nn.Sequential(module, network.stages[stage])
    calibrated = builders.untuned(network, X, structure=None)
    with pytest.raises(ValueError, match="expected stage") as caught:
        suffice.export(calibrated, folder / "bundle", example=X)
    assert list(folder.iterdir()) == []
    return str(caught.value)


WIDTHS = (4, 5)


def line_of(module, text):
    """Return the number of the line of a class that contains a text."""
    lines, first = inspect.getsourcelines(module)
    return first + next(i for i, line in enumerate(lines) if text in line)


@pytest.mark.parametrize(
    ("module", "text"),
    [(Branching, "if x.abs()"), (NumberOfValues, "float("), (ThroughNumPy, "from_numpy")],
)
def test_a_pass_that_depends_on_values_is_refused_with_the_stage_and_the_line(module, text, tmp_path):
    message = refused(module(), 1, tmp_path)
    assert message.startswith("expected stage 1 to be one graph for all inputs, got ")
    assert f" at test_tracing.py:{line_of(module, text)} (" in message
    assert message.endswith("without a branch on the values of tensors")


def test_a_pass_for_one_number_of_examples_is_refused_with_the_line_that_takes_it(tmp_path):
    message = refused(LengthTaken(), 0, tmp_path)
    assert re.match(r"expected stage 0 to be one graph .*only for the example's number of examples or tokens", message)
    assert f" at test_tracing.py:{line_of(LengthTaken, 'len(x)')} (" in message
    assert "write x.shape[0] in place of len(x)" in message


def test_a_shape_made_into_an_int_is_refused_or_exported_for_all_sizes(tmp_path):
    """Torch may trace `int` of a size; then the graph has to be right for other sizes."""
    network = builders.network(WIDTHS)
    network.stages[1] = nn.Sequential(LengthAsInt(), network.stages[1])
    calibrated = builders.untuned(network, X, structure=None)
    try:
        suffice.export(calibrated, tmp_path / "bundle", example=X)
    except ValueError as error:
        assert "write x.shape[0] in place of len(x)" in str(error)  # noqa: PT017
        return
    *_, got = bundles.Bundle(tmp_path / "bundle", calibrated).passes(X[:7])
    torch.testing.assert_close(torch.from_numpy(got["log_probs"]), calibrated(X[:7])[1].log_probs, atol=1e-5, rtol=0)


def test_an_operation_that_onnx_does_not_have_is_refused_by_its_name(tmp_path):
    message = refused(Bessel(), 0, tmp_path)
    assert re.search(r"the operation \w+\.\w*bessel_j0, which has none|aten.special_bessel_j0", message)
    assert message.endswith("compute it by other operations of torch")


def test_no_graph_holds_paths_or_lines_of_this_machine(bundle):
    exported = bundle(next(iter(bundles.FEW)))
    for stage in exported.manifest["stages"]:
        payload = (exported.folder / stage["file"]).read_bytes()
        for found in (b".py", b"/site-packages", b"suffice", b"stack_trace"):
            assert found not in payload, found


def test_the_inputs_and_outputs_of_graphs_are_those_of_the_manifest(bundle):
    exported = bundle(bundles.NESTED)
    for session, stage in zip(exported.sessions, exported.manifest["stages"], strict=True):
        for kind, values in (("inputs", session.get_inputs()), ("outputs", session.get_outputs())):
            assert [value.name for value in values] == [entry["name"] for entry in stage[kind]]
            assert [list(value.shape) for value in values] == [entry["shape"] for entry in stage[kind]]
