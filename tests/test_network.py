import copy
from collections import namedtuple

import pytest
import torch
from torch import nn

from suffice.network import Exit, ExitNetwork, batch_size, call, check_finite, join, output_tensor, select, signature
from suffice.storage.fingerprint import check_fingerprint, fingerprint
from tests import builders


def test_forward_equals_advancing_stage_by_stage():
    net, x = builders.network(), builders.inputs(5)
    state, outputs = x, []
    for k in range(3):
        state, phi = net.advance(k, state)
        outputs.append(net.exit(k).classifier(phi))
        torch.testing.assert_close(net.exit(k)(state), outputs[-1])
    for expected, got in zip(outputs, net(x), strict=True):
        torch.testing.assert_close(got, expected)


def test_exits_with_different_numbers_of_classes_are_refused():
    exits = [Exit(nn.Identity(), nn.Linear(3, classes)) for classes in (4, 5)]
    with pytest.raises(ValueError, match=r"same number of classes at every exit, got \[4, 5\]"):
        ExitNetwork([nn.Identity(), nn.Identity()], exits)


@pytest.mark.parametrize(("stages", "exits"), [(2, 1), (1, 2), (0, 0)])
def test_a_network_needs_one_exit_after_each_stage(stages, exits):
    with pytest.raises(ValueError, match=f"got {stages} stages and {exits} exits"):
        ExitNetwork(
            [nn.Identity() for _ in range(stages)],
            [Exit(nn.Identity(), nn.Linear(3, 2)) for _ in range(exits)],
        )


def test_an_exit_needs_a_linear_classifier():
    with pytest.raises(TypeError, match=r"expected an nn\.Linear .*, got Sequential"):
        Exit(nn.Identity(), nn.Sequential(nn.Linear(3, 2)))


def test_select_indexes_every_tensor_of_a_nest_and_no_other_value():
    state = {"a": torch.arange(4), "b": [torch.arange(8).reshape(4, 2)], "name": "text"}
    chosen = select(state, torch.tensor([3, 1]))
    assert chosen["a"].tolist() == [3, 1]
    assert chosen["b"][0].tolist() == [[6, 7], [2, 3]]
    assert chosen["name"] == "text"
    assert batch_size(chosen) == 2


def test_a_batch_without_tensors_has_no_size():
    with pytest.raises(TypeError, match="got dict"):
        batch_size({"a": "text"})


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("shape", [(5,), (5, 3), (5, 2, 3)])
def test_the_first_example_that_is_not_finite_is_named_by_its_position(bad, shape):
    values = torch.zeros(shape)
    check_finite(values, "things")
    values[2:4] = bad
    with pytest.raises(ValueError, match=r"expected finite things, .* at position 12 \(2 of 5 examples"):
        check_finite(values, "things", start=10)


def test_integers_are_finite():
    check_finite(torch.arange(3), "things")


def test_the_fingerprint_depends_only_on_weights_and_buffers():
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    before = fingerprint(net)
    assert fingerprint(copy.deepcopy(net).train().requires_grad_(False).eval()) == before
    names = list(net.state_dict())
    assert net.state_dict()[names[-1]].ndim == 0
    for name in names:
        changed = copy.deepcopy(net)
        changed.state_dict()[name].view(-1)[0] += 1
        assert fingerprint(changed) != before, name
    assert fingerprint(copy.deepcopy(net).double()) != before


def test_the_fingerprint_does_not_depend_on_the_layout_in_memory():
    net = nn.Conv2d(3, 4, 3)
    before = fingerprint(net)
    assert fingerprint(net.to(memory_format=torch.channels_last)) == before


def test_the_fingerprint_of_compiled_modules_is_that_of_their_weights():
    net = builders.network()
    before = fingerprint(net)
    for k, stage in enumerate(net.stages):
        net.stages[k] = torch.compile(stage, backend="eager")
    assert fingerprint(net) == before
    assert fingerprint(torch.compile(net, backend="eager")) == before


def test_the_fingerprint_depends_on_bfloat16_weights():
    net = nn.Linear(3, 2).bfloat16()
    before = fingerprint(net)
    with torch.no_grad():
        net.bias[0] += 1
    assert fingerprint(net) != before


def test_a_wrong_fingerprint_is_an_error_and_the_right_one_is_not():
    net = builders.network()
    check_fingerprint(net, fingerprint(net))
    with pytest.raises(ValueError, match=fingerprint(net)[:8]):
        check_fingerprint(net, "0" * 64)


def test_the_logits_are_the_first_of_a_tuple_and_the_last_of_a_list_of_exits():
    early, late = torch.zeros(2, 3), torch.ones(2, 3)
    named = namedtuple("Output", ["loss", "logits"])(0.0, (late, early))
    assert all(output_tensor(output) is late for output in (late, (late, early), [early, late], named))


@pytest.mark.parametrize("output", [{"scores": torch.zeros(2, 3)}, [], ()])
def test_an_output_without_logits_is_refused(output):
    with pytest.raises(TypeError, match=r"expected logits.*got (dict|list|tuple); wrap the model"):
        output_tensor(output)


def test_only_a_plain_model_receives_a_mapping_as_keyword_arguments():
    class Keywords(nn.Module):
        def forward(self, a, b):
            return a - b

    class First(nn.Module):
        def forward(self, state):
            return state["h"]

    x = {"a": torch.ones(2), "b": torch.zeros(2)}
    assert torch.equal(call(Keywords(), x), torch.ones(2))
    net = ExitNetwork([nn.Identity()], [Exit(First(), nn.Linear(2, 3))])
    assert call(net, {"h": torch.ones(4, 2)})[0].shape == (4, 3)


def test_join_is_the_inverse_of_select():
    state = {"h": torch.arange(12.0).reshape(6, 2), "past": [torch.arange(6)], "name": "x"}
    first, second = (select(state, rows) for rows in torch.arange(6).split([2, 4]))
    joined = join([first, second])
    assert torch.equal(joined["h"], state["h"])
    assert torch.equal(joined["past"][0], state["past"][0])
    assert joined["name"] == "x"
    assert join([first]) is first


def test_rows_without_an_example_may_be_infinite_and_others_are_named_by_position():
    values = torch.tensor([[0.0], [torch.inf], [torch.nan]])
    check_finite(values, "things", positions=torch.tensor([3, -1, -1]))
    with pytest.raises(ValueError, match=r"finite things, .* at position 9 \(1 of 2 examples"):
        check_finite(values, "things", positions=torch.tensor([3, -1, 9]))


@pytest.mark.filterwarnings("ignore:Sparse .* tensor support is in beta")
@pytest.mark.parametrize("layout", ["coo", "csr", "csc", "bsr"])
def test_the_fingerprint_depends_on_sparse_buffers(layout):
    """Graph networks have such buffers."""
    model, dense = nn.Linear(4, 4), torch.diag(torch.arange(1.0, 5.0))
    to = {"coo": torch.Tensor.to_sparse, "csr": torch.Tensor.to_sparse_csr, "csc": torch.Tensor.to_sparse_csc}
    sparse = to[layout](dense) if layout in to else dense.to_sparse_bsr((2, 2))
    model.register_buffer("adjacency", sparse)
    before = fingerprint(model)
    model.adjacency = sparse.clone()
    assert fingerprint(model) == before
    model.adjacency = sparse * 2
    values = fingerprint(model)
    model.adjacency = to[layout](dense.roll(1, dims=1)) if layout in to else dense.roll(1, dims=1).to_sparse_bsr((2, 2))
    assert len({before, values, fingerprint(model)}) == 3


@pytest.mark.parametrize(
    ("state", "same", "other"),
    [
        (torch.zeros(2, 3), torch.ones(5, 3), torch.zeros(2, 4)),
        (torch.zeros(2, 3), torch.ones(0, 3), torch.zeros(2, 3, dtype=torch.float64)),
        (torch.zeros(2), torch.zeros(1), torch.zeros(2, 1)),
        ({"a": torch.zeros(2), "b": 3}, {"a": torch.ones(7), "b": 3}, {"a": torch.zeros(2), "c": 3}),
        ({"a": torch.zeros(2), "b": 3}, {"a": torch.ones(7), "b": 3}, {"a": torch.zeros(2), "b": 4}),
        ([torch.zeros(2), 1], [torch.zeros(3), 1], [torch.zeros(2), True]),
        ([torch.zeros(2), 1], [torch.zeros(3), 1], [torch.zeros(2), 1.0]),
        ([torch.zeros(2), "x"], [torch.zeros(3), "x"], (torch.zeros(2), "x")),
        ([torch.zeros(2), None], [torch.zeros(3), None], [torch.zeros(2), 0]),
        ([torch.zeros(2)], [torch.zeros(3)], [torch.zeros(2), torch.zeros(2)]),
    ],
)
def test_the_signature_is_all_of_a_state_but_its_examples(state, same, other):
    assert signature(state) == signature(same)
    assert hash(signature(state)) == hash(signature(same))
    assert signature(state) != signature(other)


def test_values_without_a_hash_have_a_signature_of_their_own():
    state = [torch.zeros(2), {1, 2}]
    assert signature(state) != signature(state)


class TakesMapping(nn.Module):
    def forward(self, batch: dict):
        return batch["x"]


class TakesTwo(nn.Module):
    def forward(self, ids, lengths):
        return ids[:, : int(lengths.max())]


class Faulty(nn.Module):
    def forward(self, x):
        raise TypeError("unsupported operand")


@pytest.mark.parametrize(
    ("model", "x", "message"),
    [
        (
            TakesMapping(),
            {"x": torch.ones(2)},
            r"got the keys \['x'\]: .*; if TakesMapping.forward\(batch\) takes the map",
        ),
        (
            TakesTwo(),
            torch.ones(2, 3),
            r"arguments of TakesTwo, got one value: .*'lengths'; pass a mapping of them by na",
        ),
        (TakesTwo(), {"ids": torch.ones(2, 3)}, r"got the keys \['ids'\]: missing a required argument: 'lengths'$"),
        (
            nn.ReLU(),
            (torch.ones(2, 3), torch.ones(2)),
            r"ReLU takes, got a tuple of 2 with tensors of shape \(2, 3\), \(2,\)",
        ),
        (nn.Flatten(), [torch.ones(2, 3)], r"got a list of 1 .*'list' object has no attribute 'flatten'; pass x alone"),
        (Faulty(), torch.ones(2), r"^unsupported operand$"),
        (Faulty(), (torch.ones(2), 1), r"^unsupported operand$"),
    ],
)
def test_inputs_that_a_model_does_not_take_are_refused_with_the_cause(model, x, message):
    with pytest.raises(TypeError, match=message):
        call(model, x)
