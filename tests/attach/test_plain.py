import copy
from threading import Thread

import pytest
import torch
from torch import nn

import suffice
from suffice import cost
from suffice.attach.plain import as_exit_network, from_loader
from suffice.network import Exit, ExitNetwork
from suffice.storage.fingerprint import fingerprint
from tests import builders
from tests.attach.plain_models import (
    CLASSES,
    HuggingFace,
    ResNet,
    Timm,
    Tupled,
    batches_of,
    built,
    calibrate,
    hooks,
    logits_of,
)

pytestmark = pytest.mark.filterwarnings("ignore:.* ended at the edge of its range")


MODELS = [ResNet, Timm, Tupled, HuggingFace]


@pytest.mark.parametrize("kind", MODELS)
def test_without_posterior_and_temperature_the_probabilities_equal_the_models(kind):
    model, x = built(kind)
    (answer,) = calibrate(model, batches_of(model, x), structure=None, temperature=False)(x)
    torch.testing.assert_close(answer.probs, logits_of(model, x).softmax(dim=1))


@pytest.mark.parametrize("kind", MODELS)
def test_a_plain_model_is_calibrated_saved_loaded_and_run(kind, tmp_path):
    model, x = built(kind)
    loader = batches_of(model, x)
    calibrated = calibrate(model, loader, link="sampled")
    assert calibrated.exits[0].posterior.count == 90
    (answer,) = calibrated(x)
    assert answer.epistemic.mean() > 0
    suffice.save(calibrated, tmp_path / "c")
    again = suffice.load(tmp_path / "c", network=model)
    assert torch.equal(again(x)[0].log_probs, answer.log_probs)
    suffice.save(suffice.allocate(calibrated, loader, 1.0), tmp_path / "p")
    ran = suffice.run(again, suffice.load(tmp_path / "p"), x)
    torch.testing.assert_close(ran.probs, answer.probs)
    assert hooks(model) == 0


@pytest.mark.parametrize("kind", MODELS)
def test_the_posterior_equals_that_of_the_model_cut_by_hand(kind):
    class UpToHead(nn.Module):
        def __init__(self, model, head):
            super().__init__()
            self.inner = copy.deepcopy(model)
            setattr(self.inner, head, nn.Identity())

        def forward(self, x):
            output = self.inner(**x) if isinstance(x, dict) else self.inner(x)
            return output[0] if isinstance(output, tuple) else getattr(output, "logits", output)

    model, x = built(kind)
    head = {ResNet: "fc", Tupled: "fc", Timm: "head", HuggingFace: "classifier"}[kind]
    net = ExitNetwork([UpToHead(model, head)], [Exit(nn.Identity(), getattr(model, head))])
    loader = batches_of(model, x)
    (automatic,), (by_hand,) = calibrate(model, loader)(x), calibrate(net, loader)(x)
    torch.testing.assert_close(automatic.probs, by_hand.probs)
    torch.testing.assert_close(automatic.epistemic, by_hand.epistemic)


def test_weights_are_shared_and_unchanged_and_modes_are_restored():
    model, x = built(Timm)
    before, version = copy.deepcopy(model.state_dict()), model.head.weight._version
    model.train()
    net = as_exit_network(model, x)
    assert all(module.training for module in model.modules())
    assert net.exit(0).classifier is model.head
    assert sorted(map(id, net.parameters())) == sorted(map(id, model.parameters()))
    calibrate(model.eval(), batches_of(model, x))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert model.head.weight._version == version


def test_a_network_with_exits_is_returned_unchanged():
    net, loader = builders.network(), iter([])
    assert as_exit_network(net, builders.inputs(2)) is net
    assert from_loader(net, loader) == (net, loader)


def test_the_fingerprint_is_the_same_each_time_and_follows_the_weights():
    model, x = built(ResNet)
    first = fingerprint(as_exit_network(model, x))
    assert fingerprint(as_exit_network(model, x[:1])) == first
    with torch.no_grad():
        model.conv1.weight[0, 0, 0, 0] += 1
    assert fingerprint(as_exit_network(model, x)) != first


def test_the_cost_is_that_of_the_model_with_its_classifier_counted_once():
    model, x = built(ResNet)
    costs = cost.count(as_exit_network(model, x), x)
    assert costs.stages == (8 * 8 * 9 * (6 + 6 * 6),)
    assert costs.exits == (6 * CLASSES,)


def test_the_stage_does_not_compute_past_the_classifier():
    model, x = built(ResNet)
    net, runs = as_exit_network(model, x), []
    model.fc.register_forward_hook(lambda *_: runs.append(1))
    net.advance(0, x)
    assert not runs
    net(x)
    assert len(runs) == 1


def test_a_model_that_catches_exceptions_is_still_interrupted():
    class Catching(ResNet):
        def forward(self, x):
            try:
                return super().forward(x)
            except Exception:
                return torch.zeros(len(x), CLASSES)

    model, x = built(Catching)
    torch.testing.assert_close(as_exit_network(model, x)(x)[0], model(x))


def test_a_concurrent_pass_in_another_thread_is_not_interrupted():
    model, x = built(ResNet)
    net, outputs = as_exit_network(model, x), []

    def run_concurrently(*_):
        handle.remove()
        thread = Thread(target=lambda: outputs.append(model(x)))
        thread.start()
        thread.join()

    handle = model.conv1.register_forward_hook(run_concurrently)
    torch.testing.assert_close(net(x)[0], model(x))
    torch.testing.assert_close(outputs, [model(x)])


def test_a_linear_layer_alone_is_a_model():
    model, x = nn.Linear(3, CLASSES), builders.inputs(9)
    torch.testing.assert_close(as_exit_network(model, x)(x)[0], model(x))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types(dtype):
    model, x = built(ResNet)
    model, x = model.to(dtype), x.to(dtype)
    assert torch.equal(as_exit_network(model, x)(x)[0], model(x))


def test_gradients_equal_those_of_the_model():
    model, x = built(ResNet)
    as_exit_network(model, x)(x)[0].square().sum().backward()
    wrapped = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    model(x).square().sum().backward()
    for gradient, parameter in zip(wrapped, model.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad)


class TestLoaders:
    @pytest.mark.parametrize("structure", ["kronecker", None])
    @pytest.mark.parametrize("form", [list, iter, lambda batches: (batch for batch in batches)])
    def test_every_example_is_read_exactly_once_and_in_order(self, form, structure):
        model, x = built(ResNet)
        batches = batches_of(model, x)
        read = {"train": [], "val": []}

        def recorded(name):
            for batch in batches:
                read[name].append(batch[0])
                yield batch

        train, val = form(list(batches)), form(list(batches))
        expected = calibrate(model, batches, batches, structure=structure)(x)[0]
        got = calibrate(model, train, val, structure=structure)
        assert torch.equal(got(x)[0].log_probs, expected.log_probs)
        assert structure is None or got.exits[0].posterior.count == 90
        calibrate(model, recorded("train"), recorded("val"), structure=structure)
        assert torch.equal(torch.cat(read["val"]), x)
        if structure is None:
            assert not read["train"]
        else:
            assert torch.equal(torch.cat(read["train"]), x)

    def test_one_generator_for_both_passes_is_refused(self):
        model, x = built(ResNet)
        generator = (batch for batch in batches_of(model, x))
        with pytest.raises(ValueError, match="a generator is empty the second time"):
            calibrate(model, generator, generator)

    def test_an_empty_first_batch_and_a_single_example_are_accepted(self):
        model, x = built(ResNet)
        loader = batches_of(model, x)
        calibrated = calibrate(model, [(x[:0], loader[0][1][:0]), (x[:1], loader[0][1][:1]), *loader])
        assert calibrated.exits[0].posterior.count == 91

    @pytest.mark.parametrize("structure", ["kronecker", None])
    def test_an_empty_loader_is_refused(self, structure):
        with pytest.raises(ValueError, match="empty loader"):
            calibrate(built(ResNet)[0], [], structure=structure)

    def test_a_bad_input_is_named_by_its_position(self):
        model, x = built(ResNet)
        loader = [(x.clone(), y) for x, y in batches_of(model, x)]
        loader[1][0][3, 0, 0, 0] = float("nan")
        with pytest.raises(ValueError, match="at position 35 "):
            calibrate(model, loader)


class TestLoading:
    def save(self, tmp_path):
        model, x = built(ResNet)
        suffice.save(calibrate(model, batches_of(model, x)), tmp_path / "c")
        return model

    def test_a_function_that_builds_the_model_is_accepted(self, tmp_path):
        model = self.save(tmp_path)
        assert suffice.load(tmp_path / "c", network=lambda: model).network.exit(0).classifier is model.fc

    def test_the_wrapped_network_is_accepted(self, tmp_path):
        model = self.save(tmp_path)
        net = as_exit_network(model, built(ResNet)[1])
        assert suffice.load(tmp_path / "c", network=net).network is net

    def test_other_weights_are_refused(self, tmp_path):
        model = self.save(tmp_path)
        with torch.no_grad():
            model.fc.bias[0] += 1
        with pytest.raises(ValueError, match="whose weights have the hash"):
            suffice.load(tmp_path / "c", network=model)

    @pytest.mark.parametrize(("model", "there"), [(nn.Linear(3, 4), "nothing"), (nn.ModuleDict(), "Conv2d")])
    def test_another_model_is_refused_by_the_classifiers_name(self, tmp_path, model, there):
        self.save(tmp_path)
        if there == "Conv2d":
            model = nn.ModuleDict({"fc": nn.Conv2d(1, 1, 1)})
        with pytest.raises(ValueError, match=rf"expected a model with an nn\.Linear at 'fc', got \w+ with {there}"):
            suffice.load(tmp_path / "c", network=model)

    def test_a_missing_model_is_an_error_with_a_remedy(self, tmp_path):
        self.save(tmp_path)
        with pytest.raises(TypeError, match="expected the model that was calibrated, got NoneType; pass it as network"):
            suffice.load(tmp_path / "c")

    def test_a_plain_model_in_place_of_a_network_with_exits_is_refused(self, tmp_path):
        net = builders.network()
        suffice.save(builders.untuned(net, builders.inputs(20)), tmp_path / "c")
        with pytest.raises(TypeError, match="expected the ExitNetwork that was calibrated, got ResNet"):
            suffice.load(tmp_path / "c", network=ResNet())
