import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

import suffice
from suffice import cost
from suffice.attach import contract
from suffice.network import select
from suffice.training.loop import train
from tests.robustness.lookalikes import (
    CLASSES,
    DenseNet,
    ResNet,
    Router,
    TextModel,
    UNet,
    VisionTransformer,
    built,
    logits_of,
)
from tests.robustness.surroundings import anywhere

CUTS = [
    (ResNet, ["layer1", "layer2"]),
    (ResNet, ["bn1", "layer1.0.bn1", "layer2.0.conv1", "layer3"]),
    (ResNet, ["layer2.0.downsample.1", "avgpool"]),
    (DenseNet, ["layers.0", "layers.2"]),
    (UNet, ["enter", "deep"]),
    (UNet, ["down", "leave"]),
    (TextModel, ["layers.0", "layers.1"]),
    (TextModel, ["embeddings", "layers.1.attention"]),
    (VisionTransformer, ["encoder.layers.0", "encoder.layers.1"]),
    (VisionTransformer, ["encoder.layers.0.norm2", "encoder"]),
]


def attached(kind, at, **options):
    model, x = built(kind)
    return model, x, suffice.attach_exits(model, at, example=x, **options)


@pytest.mark.parametrize(("kind", "at"), CUTS)
@pytest.mark.parametrize("freeze", [True, False])
@torch.no_grad()
def test_the_last_logits_equal_the_models_bit_for_bit_and_each_place_has_an_exit(kind, at, freeze):
    model, x, net = attached(kind, at, freeze=freeze, num_classes=CLASSES)
    expected = logits_of(model, x)
    outputs = net.eval()(x)
    assert len(outputs) == len(at) + 1
    assert torch.equal(outputs[-1], expected)
    assert all(logits.shape == expected.shape for logits in outputs)
    head = net.exit(len(at)).classifier
    assert any(head is module for module in model.modules())


@pytest.mark.parametrize(("kind", "at"), CUTS)
@torch.no_grad()
def test_examples_that_leave_at_any_cut_do_not_change_the_others(kind, at):
    _, x, net = attached(kind, at)
    expected, remaining = net.eval()(x), torch.tensor([7, 2, 11])
    for cut in range(len(at)):
        state = x
        for k in range(len(net.exits)):
            state, phi = net.advance(k, state)
            if k == cut:
                state = select(state, remaining)
        torch.testing.assert_close(net.exit(k).classifier(phi), expected[-1][remaining], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("kind", "at"), CUTS)
def test_the_stages_cost_as_much_as_the_model(kind, at):
    model, x, net = attached(kind, at)
    whole = cost.count(suffice.attach.plain.as_exit_network(model, x), x)
    costs = cost.count(net, x)
    assert sum(costs.stages) == sum(whole.stages)
    assert costs.exits[-1] == whole.exits[-1]


def test_an_exit_reads_the_output_of_its_module():
    model, x, net = attached(ResNet, ["layer1", "layer2"])
    outputs = []
    handle = model.layer2.register_forward_hook(lambda module, args, output: outputs.append(output.clone()))
    state, _ = net.advance(0, x)
    _, phi = net.advance(1, state)
    handle.remove()
    expected = functional.layer_norm(outputs[0].mean((2, 3)), (8,))
    torch.testing.assert_close(phi, expected)


def test_one_name_is_a_place():
    _, _, net = attached(ResNet, "layer2")
    assert len(net.exits) == 2


def test_places_may_be_named_in_any_order():
    _, _, net = attached(ResNet, ["layer2", "layer1"])
    assert [net.exit(k).classifier.in_features for k in range(3)] == [6, 8, 10]


class TestFreezing:
    def test_trains_the_new_exits_alone(self):
        model, x, net = attached(ResNet, ["layer1", "layer2"])
        before = copy.deepcopy(model.state_dict())
        labels = torch.arange(12) % CLASSES
        losses = train(net, [(x, labels)], epochs=30)
        assert losses[-1] < losses[0]
        assert net.training
        assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
        assert all(net.exit(k).classifier.weight.any() for k in range(2))

    def test_keeps_the_models_modules_in_evaluation_mode(self):
        model, _, net = attached(ResNet, ["layer1"])
        net.train()
        assert net.exits.training
        layers = [module for module in model.modules() if not list(module.children()) and module is not model.fc]
        assert not any(module.training for module in layers)
        assert not any(parameter.requires_grad for parameter in model.parameters())

    def test_disabled_trains_everything(self):
        model, x, net = attached(ResNet, ["layer1"], freeze=False)
        before = copy.deepcopy(model.state_dict())
        train(net, [(x, torch.arange(12) % CLASSES)], epochs=2)
        changed = [name for name, tensor in model.state_dict().items() if not torch.equal(before[name], tensor)]
        assert {"conv1.weight", "bn1.running_mean", "fc.weight"} <= set(changed)

    @pytest.mark.parametrize("mode", [True, False])
    def test_disabled_leaves_the_modes_of_the_model_unchanged(self, mode):
        model, x = built(ResNet)
        model.train(mode).layer1.eval()
        modes = [module.training for module in model.modules()]
        suffice.attach_exits(model, ["layer1"], example=x, freeze=False)
        assert [module.training for module in model.modules()] == modes

    def test_new_classifiers_start_at_zero_in_the_models_type(self):
        model, x = built(ResNet)
        net = suffice.attach_exits(model.bfloat16(), ["layer1"], example=x.bfloat16())
        assert net.exit(0).classifier.weight.dtype == torch.bfloat16
        assert not net(x.bfloat16())[0].any()


class TestStagesAsGiven:
    def stages(self, model):
        first = nn.Sequential(nn.Flatten(), model.enter, nn.Tanh())
        return [first, nn.Sequential(model.middle, nn.Tanh()), model.fc]

    @torch.no_grad()
    def test_the_last_logits_equal_the_models(self):
        model, x = built(Router)
        net = suffice.attach_exits(model, self.stages(model), example=x)
        assert torch.equal(net(x)[-1], model(x))
        assert len(net.exits) == 3
        assert sum(cost.count(net, x).stages) == 64 * 6 + 6 * 6

    @torch.no_grad()
    def test_a_state_may_be_a_mapping_up_to_the_last_stage(self):
        class Enter(nn.Module):
            def __init__(self, layer):
                super().__init__()
                self.layer = layer

            def forward(self, x):
                return {"count": torch.ones(len(x), dtype=torch.long), "h": self.layer(x.flatten(1)).tanh()}

        class Leave(nn.Module):
            def __init__(self, model):
                super().__init__()
                self.middle, self.fc = model.middle, model.fc

            def forward(self, state):
                return self.fc(self.middle(state["h"]).tanh())

        model, x = built(Router)
        net = suffice.attach_exits(model, [Enter(model.enter), Leave(model)], example=x)
        assert torch.equal(net(x)[-1], model(x))
        assert net.exit(0).classifier.in_features == 6

    def test_stages_that_do_not_compose_to_the_model_are_refused(self):
        model, x = built(Router)
        first, _, last = self.stages(model)
        with pytest.raises(ValueError, match=r"reproduce the model, .* difference of [\d.]+; check that the given"):
            suffice.attach_exits(model, [first, last], example=x)

    def test_a_last_stage_without_the_models_classifier_is_refused(self):
        model, x = built(Router)
        with pytest.raises(ValueError, match=r"classifier \(6 → 5\) in the last stage, got Sequential without it"):
            suffice.attach_exits(model, self.stages(model)[:2], example=x)


class TestInPlace:
    def test_a_stage_that_writes_into_its_state_gets_a_copy(self):
        _, x, net = attached(ResNet, ["bn1"])
        state, _ = net.advance(0, x)
        before = {name: tensor.clone() for name, tensor in state.items()}
        assert any((tensor < 0).any() for tensor in state.values())
        net.advance(1, state)
        assert all(torch.equal(before[name], tensor) for name, tensor in state.items())

    def test_a_first_stage_that_writes_into_the_inputs_gets_a_copy(self):
        class Normalizing(ResNet):
            def forward(self, x):
                x.sub_(0.5)
                return super().forward(x)

        model, x = built(Normalizing)
        before = x.clone()
        net = suffice.attach_exits(model, ["layer1"], example=x[:2].clone())
        net(x)
        assert torch.equal(x, before)
        torch.testing.assert_close(net(x)[-1], model(x.clone()))

    def test_an_operation_whose_result_is_not_used_is_kept(self):
        class Statement(ResNet):
            def forward(self, x):
                x = self.layer1(self.conv1(x))
                x.add_(1)
                x[:, 0] = 0
                return self.fc(self.layer3(self.layer2(x)).mean((2, 3)))

        model, x = built(Statement)
        net = suffice.attach_exits(model, ["layer1", "layer2"], example=x)
        torch.testing.assert_close(net(x)[-1], model(x))


@torch.no_grad()
def test_modules_and_parameters_may_be_shared_between_stages():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.enter, self.first, self.again = nn.Linear(64, 6), nn.Linear(6, 6), nn.Linear(6, 6)
            self.between, self.fc = nn.Tanh(), nn.Linear(6, CLASSES)

        def forward(self, x):
            h = self.first(self.again(self.enter(x.flatten(1)))).tanh()
            return self.fc(self.between(self.again(h) @ self.first.weight))

    model, x = built(Recurrent)
    net = suffice.attach_exits(model, ["first"], example=x)
    assert torch.equal(net(x)[-1], model(x))
    new = {id(parameter) for parameter in net.exits[0].parameters()}
    assert {id(parameter) for parameter in net.parameters()} - new == {id(p) for p in model.parameters()}


@pytest.mark.parametrize("size", [12, 16])
@torch.no_grad()
def test_inputs_may_have_another_size_than_the_example(size):
    model, _, net = attached(UNet, ["enter", "deep"])
    x = torch.randn(3, 1, size, size, generator=torch.Generator().manual_seed(0))
    assert torch.equal(net(x)[-1], model(x))


@torch.no_grad()
def test_values_that_depend_only_on_parameters_are_computed_again():
    class Biased(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Parameter(torch.randn(8, 8))
            self.first, self.fc = nn.Linear(8, 8), nn.Linear(8, CLASSES)

        def forward(self, x):
            bias = self.table.softmax(dim=-1)
            h = self.first(x[:, 0] + bias)
            return self.fc((h + bias).mean(1))

    model, x = built(Biased)
    net = suffice.attach_exits(model, ["first"], example=x)
    assert torch.equal(net(x)[-1], model(x))
    assert len(net.stages[0](x)) == 1


def test_a_copy_of_the_network_has_the_same_outputs():
    _, x, net = attached(ResNet, ["layer1"])
    again = copy.deepcopy(net)
    for expected, got in zip(net(x), again(x), strict=True):
        assert torch.equal(got, expected)


@pytest.mark.filterwarnings("ignore:.* ended at the edge of its range", "ignore:expected a mean cost of")
@pytest.mark.parametrize(
    ("kind", "at"),
    [
        (ResNet, ["layer1", "layer2"]),
        (TextModel, ["layers.0", "layers.1"]),
        (VisionTransformer, ["encoder.layers.0", "encoder.layers.1"]),
    ],
)
def test_a_network_is_trained_calibrated_allocated_run_saved_and_loaded(kind, at, tmp_path, generator):
    model, x, net = attached(kind, at)
    labels = logits_of(model, x).argmax(1)
    loader = [{**x, "labels": labels}] if isinstance(x, dict) else [(x, labels)]
    train(net, loader, epochs=20)
    calibrated = suffice.calibrate(net, loader, loader, samples=8, generator=generator)
    contract.check(net, x)
    policy = suffice.allocate(calibrated, loader, budget=0.7)
    answer = suffice.run(calibrated, policy, x)
    picked = torch.stack([prediction.probs for prediction in calibrated(x)])[answer.exit, torch.arange(12)]
    torch.testing.assert_close(answer.probs, picked, rtol=0, atol=1e-5)
    suffice.save(calibrated, tmp_path / "c")
    again = suffice.load(tmp_path / "c", network=net)
    assert torch.equal(again(x)[0].log_probs, calibrated(x)[0].log_probs)


@anywhere
def test_ambient_modes_change_nothing(surrounding):
    model, x = built(ResNet)
    with surrounding():
        net = suffice.attach_exits(model, ["layer1", "layer2"], example=x)
    expected = suffice.attach_exits(model, ["layer1", "layer2"], example=x)
    assert torch.equal(net.eval()(x)[-1], expected.eval()(x)[-1])
    assert net.exit(0).classifier.weight.dtype == expected.exit(0).classifier.weight.dtype
    sum(logits.sum() for logits in net(x)).backward()
    assert net.exit(0).classifier.weight.grad is not None


def test_random_numbers_in_evaluation_mode_are_refused_by_name_however_rare_their_effect():
    class Rarely(nn.Module):
        def forward(self, x):
            return nn.functional.dropout(x, 1e-4)

    model = nn.Sequential(nn.Linear(4, 4), Rarely(), nn.Linear(4, 3)).eval()
    with pytest.raises(ValueError, match="evaluation mode, got random numbers from bernoulli_ in module '1'"):
        suffice.attach_exits(model, at=["0"], example=torch.randn(4, 4))
