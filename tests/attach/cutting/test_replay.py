"""Models whose pass cannot be traced: their stages run the model's own code again."""

import copy
import random
import threading

import pytest
import torch
from torch import nn
from torch.nn import functional

import suffice
from suffice.attach.cutting.replay import Stage
from suffice.network import select
from suffice.training import train
from suffice.variation.features.strengths import capture
from tests.robustness.lookalikes import CLASSES


class Plain(nn.Module):
    """Residual network on vectors; `forward` of its subclasses cannot be traced."""

    def __init__(self):
        super().__init__()
        self.enter, self.fc = nn.Linear(8, 6), nn.Linear(6, CLASSES)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(4))


class MadeInForward(Plain):
    def forward(self, x):
        h = nn.ReLU()(self.enter(x))
        for block in self.blocks:
            h = h + nn.Tanh()(block(h))
        return self.fc(h)


class Branching(Plain):
    def forward(self, x):
        h = self.enter(x)
        for i, block in enumerate(self.blocks):
            if float(h.abs().max()) > i:  # depends on the values
                h = h + block(h)
        return self.fc(h)


class Skipping(Plain):
    """U-shaped: the output of every block on the way down is read on the way up."""

    def forward(self, x):
        h, kept = self.enter(x), []
        for block in self.blocks[:2]:
            h = block(h)
            kept.append(h)
            h.add_(1)  # in place, after it was kept
        for block in self.blocks[2:]:
            h = block(h * len(kept)) + kept.pop()
        return self.fc(nn.Tanh()(h))


class Cached(Plain):
    """Blocks that append to a list of plain values and tensors, and a state with a tuple of ints."""

    def forward(self, x):
        cache, size = [], (x.shape[1], 1)
        h = self.enter(x)
        for block in self.blocks:
            h = self.step(block, h, cache, size)
        return self.fc(nn.Tanh()(h) + len(cache))

    def step(self, block, h, cache, size):
        cache.append(h)
        return block(h) + size[0] * h


class SequenceFirst(Plain):
    """Blocks whose outputs (T, N, C) have the examples second; the cut is where they are first."""

    def __init__(self):
        super().__init__()
        self.positions, self.middle = nn.Linear(1, 6), nn.Identity()

    def forward(self, x):
        steps = nn.ReLU()(self.blocks[0](self.enter(x)[:, None].expand(-1, 3, -1).transpose(0, 1)))
        table = self.positions(torch.arange(3.0)[:, None])  # the same for all examples
        h = self.middle(steps.mean(0) + table.mean(0))
        return self.fc(h + (steps + table[:, None]).amax(0))


class Wide(nn.Module):
    """Image model with arguments, an output that is an object, and a functional head."""

    def __init__(self):
        super().__init__()
        self.stem, self.deep, self.score = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 6, 3), nn.Linear(6, CLASSES)

    def forward(self, pixels, scale=None):
        h = functional.relu(self.stem(pixels)) * (1 if scale is None else scale[:, None, None, None])
        return {"logits": self.score(nn.Flatten()(functional.adaptive_avg_pool2d(self.deep(h), 1)))}["logits"]


AT = {
    MadeInForward: ["blocks.0", "blocks.2"],
    Branching: ["blocks.0"],
    Skipping: ["blocks.0", "blocks.1", "blocks.2"],
    Cached: ["enter", "blocks.1"],
    SequenceFirst: ["middle"],
}


def attached(kind, at=None):
    torch.manual_seed(0)
    model, x = kind().eval(), torch.randn(9, 8)
    network = suffice.attach_exits(model, at or AT[kind], example=x[:4])
    assert isinstance(network.stages[-1].stage, Stage)
    return model, network.eval(), x


@pytest.mark.parametrize("kind", AT)
@torch.no_grad()
def test_the_last_logits_equal_the_models_bit_for_bit(kind):
    model, network, x = attached(kind)
    for size in (9, 4, 1):
        assert torch.equal(network(x[:size])[-1], model(x[:size]))


@pytest.mark.parametrize("kind", [kind for kind in AT if kind is not Branching])
@torch.no_grad()
def test_examples_that_leave_do_not_change_the_others(kind):
    model, network, x = attached(kind)
    remaining = torch.tensor([7, 2, 5])
    for cut in range(len(AT[kind])):
        state = x
        for k in range(len(network.exits)):
            state, phi = network.advance(k, state)
            state = select(state, remaining) if k == cut else state
        torch.testing.assert_close(model.fc(phi), model(x[remaining]))


def test_modules_before_a_cut_run_once():
    ran = []

    class Counted(nn.Linear):
        def forward(self, x):
            ran.append(self)
            return super().forward(x)

    class Model(MadeInForward):
        def __init__(self):
            super().__init__()
            self.enter = Counted(8, 6)
            self.blocks = nn.ModuleList(Counted(6, 6) for _ in range(4))

    _, network, x = attached(Model, ["blocks.0", "blocks.2"])
    ran.clear()
    network(x)
    assert len(ran) == len(set(map(id, ran))) == 5


def test_a_state_keeps_what_is_read_later_and_the_shapes_of_the_rest():
    _, network, x = attached(Skipping)
    state, _ = network.advance(0, x)
    assert sorted(state["kept"]) == ["blocks.0#0[0]"]
    state, _ = network.advance(1, state)
    assert sorted(state["kept"]) == ["blocks.0#0[0]", "blocks.1#0[0]"]
    state, _ = network.advance(2, state)
    assert all(len(tensor) == 9 for tensor in state["kept"].values())


def test_each_weight_is_in_the_network_once_and_the_models_own():
    model, network, _ = attached(MadeInForward)
    assert {id(p) for p in network.stages.parameters()} == {id(p) for p in model.parameters()}
    names = [name for name in network.state_dict() if name.startswith("stages") and "blocks.3.0.weight" in name]
    assert len(names) == 1


def test_the_costs_are_those_of_the_model():
    _, network, x = attached(MadeInForward)
    costs = suffice.cost.count(network, x)
    assert costs.stages == (8 * 6 + 36, 2 * 36, 36)


def test_a_branch_that_needs_what_was_not_kept_is_an_error_by_name():
    class Late(Plain):
        def forward(self, x):
            h = nn.Tanh()(self.enter(x))
            out = self.blocks[0](h)
            if float(x.sum()) > 1e6:
                out = out + h
            return self.fc(out)

    torch.manual_seed(0)
    model, x = Late().eval(), torch.randn(4, 8)
    network = suffice.attach_exits(model, "blocks.0", example=x)
    state, _ = network.advance(0, x)
    assert torch.equal(network(x)[-1], model(x))
    assert "inputs[0]" in state["kept"]
    state, _ = network.advance(0, x.abs() * 1e6)
    with pytest.raises(RuntimeError, match=r"also reads \['enter#0\[0\]'\]; attach the exits with an example"):
        network.advance(1, state)


@torch.no_grad()
def test_arguments_may_be_left_out_and_added():
    torch.manual_seed(0)
    model, pixels, scale = Wide().eval(), torch.randn(5, 1, 9, 9), torch.rand(5)
    network = suffice.attach_exits(model, "stem", example={"pixels": pixels[:3]})
    for x in ({"pixels": pixels}, {"scale": scale, "pixels": pixels}, {"pixels": pixels[:, :, :7, :8]}):
        assert torch.equal(network(x)[-1], model(**x))
    with pytest.raises(TypeError, match="unexpected keyword argument 'scal'"):
        network({"pixels": pixels, "scal": scale})


def test_heads_are_trained_calibrated_and_run_and_a_copy_answers_alike(tmp_path):
    model, network, x = attached(MadeInForward)
    x = torch.randn(60, 8, generator=torch.Generator().manual_seed(1))
    loader = [(x, model(x).softmax(1).multinomial(1, generator=torch.Generator().manual_seed(0))[:, 0])]
    before = copy.deepcopy(model.state_dict())
    train(network, loader, epochs=3)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    calibrated = suffice.calibrate(network, loader, loader, structure=None, temperature=False)
    policy = suffice.allocate(calibrated, loader, budget=0.8)
    answer = suffice.run(calibrated, policy, x)
    every = torch.stack([prediction.probs for prediction in calibrated(x)])
    torch.testing.assert_close(answer.probs, every[answer.exit, torch.arange(60)], rtol=0, atol=1e-5)
    suffice.save(calibrated, tmp_path / "c")
    again = suffice.load(tmp_path / "c", network=copy.deepcopy(network))
    assert torch.equal(again(x)[0].log_probs, calibrated(x)[0].log_probs)
    served = list(suffice.run_stream(calibrated, policy, x.split(7), size=16))
    torch.testing.assert_close(torch.cat([one.answer.probs for one in served]), answer.probs, rtol=0, atol=1e-5)


def test_threads_do_not_see_each_other_and_the_model_runs_meanwhile():
    model, network, _ = attached(Skipping)
    inputs = [torch.randn(5, 8, generator=torch.Generator().manual_seed(seed)) for seed in range(4)]
    with torch.no_grad():
        expected = [model(x) for x in inputs]
    wrong = []

    def work(x, right):
        with torch.no_grad():
            for _ in range(20):
                wrong.extend(1 for got in (network(x)[-1], model(x)) if not torch.equal(got, right))

    threads = [threading.Thread(target=work, args=pair) for pair in zip(inputs, expected, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert "forward" not in vars(model.blocks[0])


@pytest.mark.parametrize("drawing", [torch.rand, random.random])
def test_a_pass_that_draws_random_numbers_is_not_frozen_into_a_trace(drawing):
    class LayerDrop(Plain):
        def forward(self, x):
            h = self.enter(x)
            if not (self.training and float(drawing(*([()] if drawing is torch.rand else []))) < 0.5):
                h = h + self.blocks[0](h)
            return self.fc(self.blocks[1](h))

    refused = 0
    for seed in range(8):
        random.seed(seed)
        torch.manual_seed(seed)
        try:
            suffice.attach_exits(LayerDrop().eval(), "enter", example=torch.randn(4, 8), freeze=False)
        except ValueError:
            refused += 1
    assert refused == 8


class Remembering(Plain):
    """Network whose last block reads the output of the first one, and calls a function before the first cut."""

    def forward(self, x):
        h = nn.ReLU()(self.enter(x))
        first = self.blocks[0](h)
        return self.fc(torch.tanh(self.blocks[2](self.blocks[1](first) + first)))


def remembering():
    torch.manual_seed(0)
    model = Remembering().eval()
    network = suffice.attach_exits(model, at=["blocks.1"], example=torch.randn(4, 8))
    assert isinstance(network.stages[0].stage, Stage)
    return model, network


def test_dropout_in_a_stage_is_the_same_in_the_stages_that_read_its_output():
    model, network = remembering()
    x = torch.randn(5, 8)
    for name in ("blocks.0", "blocks.1"):
        spreads = [
            suffice.MCDropout(passes=10, at=pattern, rate=0.5)(each, x, generator=torch.Generator().manual_seed(3))
            for each, pattern in ((model, name), (network, f"*.{name}"))
        ]
        torch.testing.assert_close(spreads[1]["std"], spreads[0]["std"], rtol=1e-5, atol=1e-7)
        assert float(spreads[0]["std"].max()) > 0


def test_a_hook_that_changes_an_output_counts_once():
    model, network = remembering()
    x = torch.randn(5, 8)
    for each in (model, network.get_submodule("stages.0.stage.model")):
        each.blocks[0].register_forward_hook(lambda _module, _args, output: 3 * output)
    assert torch.equal(network(x)[-1], model(x))


def test_activations_of_a_pass_in_stages_are_read_once():
    model, network = remembering()
    x = torch.randn(40, 8)
    layers = ["*.blocks.0.1", "*.blocks.2", "*:tanh", "*:relu"]
    estimator = suffice.fit_variation(
        network, [x], [torch.randn(20, 8)], teacher=suffice.MCDropout(passes=6, at="*.blocks.0", rate=0.5),
        epochs=1, layers=layers,
    )  # fmt: skip
    _, strengths = capture(network, x, estimator.layers)
    names = [name.removeprefix("stages.0.stage.model") for name in estimator.layers]
    _, wanted = capture(model, x, [name.removeprefix(".") for name in names])
    for ours, theirs in zip(strengths.values(), wanted.values(), strict=True):
        torch.testing.assert_close(ours, theirs)


class CallsForward(Plain):
    """Network that calls the forward of its blocks, by which their hooks do not run."""

    def forward(self, x):
        h = nn.ReLU()(self.enter(x))
        for block in self.blocks:
            h = block.forward(h) + h
        return self.fc(h)


def test_a_model_that_calls_the_forward_of_a_module_is_cut_behind_it():
    torch.manual_seed(0)
    model, x = CallsForward().eval(), torch.randn(5, 8)
    network = suffice.attach_exits(model, at=["blocks.0", "blocks.2"], example=x)
    assert isinstance(network.stages[1].stage, Stage)
    assert torch.equal(network(x)[-1], model(x))
    h = nn.ReLU()(model.enter(x))
    state = network.advance(0, x)[0]
    assert torch.equal(state["output"], model.blocks[0](h))
