"""Quantized networks: close to those in float32, calibrated again, with classifiers and predictions in float32."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import suffice
from suffice.calibration import likelihoods
from suffice.calibration.calibrated import Calibrated
from suffice.calibration.tuning import validation
from suffice.calibration.tuning.objective import Objective, cache
from suffice.deploy import checks, quantize
from suffice.deploy.bundle import card
from suffice.deploy.quantization.quantized import Quantized
from suffice.network import Exit, ExitNetwork
from tests import builders
from tests.deploy import bundles, models

CLASSES, SIDE, EXAMPLES = 4, 8, 400

pytestmark = pytest.mark.filterwarnings("ignore:.* ended at the edge of its range", "ignore:expected a mean cost of")


def images(count: int, seed: int = 0) -> Tensor:
    """Return noise about an average and with a contrast of its own in each half of an image."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, 1, SIDE, SIDE, generator=generator)
    mean, contrast = torch.randn(2, count, 1, SIDE // 4, 1, generator=generator).repeat_interleave(4, dim=3)
    return mean + contrast * noise


def labeled(network: ExitNetwork, x: Tensor, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Return a loader of inputs with labels drawn from the product of the distributions at all exits."""
    with torch.no_grad():
        return builders.batched(x, builders.sampled_labels(sum(network(x)), seed=seed), 100)


@dataclass(frozen=True)
class Case:
    """Calibrated network, the quantized one, and data for both."""

    calibrated: Calibrated
    quantized: Quantized
    loader: list

    @cached_property
    def inputs(self):
        return [x for x, _ in self.loader]


@pytest.fixture(scope="session")
def conv() -> Case:
    """Convolutional network whose temperatures were doubled before it was quantized, and fitted again."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = suffice.models.convnet(num_classes=CLASSES, widths=(4, 6), features=8)
        network(images(200, seed=1))  # running means of batch norms
        for exit_ in models.drawn(network.eval()).exits:
            exit_.classifier.weight.data *= 8  # so that its classes can be told apart
    train, val = labeled(network, images(EXAMPLES, seed=2)), labeled(network, images(EXAMPLES, seed=3), seed=1)
    calibrated = suffice.calibrate(network, train, val, link="sampled", samples=8, ensemble="product")
    calibrated = calibrated.with_temperature([2 * exit_.temperature for exit_ in calibrated.exits])
    return Case(calibrated, suffice.quantize(calibrated, train[:2], refit=val), val)


@pytest.fixture(scope="session")
def conv_bundle(conv, tmp_path_factory) -> bundles.Bundle:
    """Bundle of the convolutional network, with a policy for the quantized one whose score reads the state."""
    teacher, generator = suffice.MCDropout(passes=4), torch.Generator().manual_seed(0)
    score = suffice.fit_exit_variation(
        conv.quantized, conv.inputs, [1 - x for x in conv.inputs], teacher=teacher, epochs=3, generator=generator
    )
    policy = suffice.allocate(conv.quantized, conv.loader, 0.8, score=score)
    write = partial(suffice.export, conv.quantized, policy=policy, example=images(2))
    return bundles.Bundle(bundles.shared_folder(tmp_path_factory, "int8", write), conv.quantized, policy)


@pytest.fixture(scope="session")
def text() -> Case:
    """Text model, quantized with its temperatures in float32."""
    calibrated = models.calibrated_text()
    batches = [models.texts(40, seed=5), models.texts(40, 6, seed=6)]
    with torch.no_grad():
        labels = [builders.sampled_labels(calibrated.network(x)[-1]) for x in batches]
    return Case(calibrated, suffice.quantize(calibrated, batches), list(zip(batches, labels, strict=True)))


@pytest.fixture(scope="session")
def text_bundle_int8(text, tmp_path_factory) -> bundles.Bundle:
    """Bundle of the text model without a policy."""
    write = partial(suffice.export, text.quantized, example=models.texts(3))
    return bundles.Bundle(bundles.shared_folder(tmp_path_factory, "int8-texts", write), text.quantized)


def objective(case: Case, calibrated: Calibrated, exits) -> float:
    """Return the mean NLL on the data, summed over the exits, plus the prior of the temperatures."""
    read = likelihoods.read(case.loader, calibrated.network, calibrated.likelihood)
    with torch.no_grad():
        caches, targets = cache(exits, read, lambda x, _: case.quantized.features(x))
        data = Objective(caches, targets, case.quantized.weights, True)
        nll = float(data.nll(exits, torch.arange(len(targets))).mean())
        units = [exit_.likelihood.output_unit(each.logits) for exit_, each in zip(exits, caches, strict=True)]
    logarithms = np.log([exit_.temperature / unit for exit_, unit in zip(exits, units, strict=True)])
    return nll + float((logarithms**2).sum()) / (2 * validation.SPREAD**2 * len(targets))


def losses(calibrated: Calibrated, loader) -> Iterator[Tensor]:
    """Yield the NLL (N,) of each exit."""
    x, y = torch.cat([x for x, _ in loader]), torch.cat([y for _, y in loader])
    for prediction in calibrated(x):
        yield -prediction.log_probs[torch.arange(len(y)), y]


def test_the_loss_of_a_quantized_network_is_that_of_the_network_within_chance(conv, text):
    """The NLL of both differs by less than the standard error of either, which is far below what a label is worth."""
    temperatures = [exit_.temperature for exit_ in conv.calibrated.exits]
    x, y = (torch.cat([batch[i] for batch in conv.loader]) for i in (0, 1))
    same = conv.quantized.with_temperature(temperatures)
    for mine, theirs in zip(losses(same, [(x, y)]), losses(conv.calibrated, [(x, y)]), strict=True):
        assert abs(mine.mean() - theirs.mean()) < theirs.std() / len(theirs) ** 0.5
        assert not torch.equal(mine, theirs)
    for batch in text.loader:
        for mine, theirs in zip(
            losses_of_texts(text.quantized, batch), losses_of_texts(text.calibrated, batch), strict=True
        ):
            assert abs(mine.mean() - theirs.mean()) < theirs.std() / len(theirs) ** 0.5
            assert not torch.equal(mine, theirs)


def losses_of_texts(calibrated: Calibrated, batch) -> list[Tensor]:
    x, y = batch
    return [-prediction.log_probs[torch.arange(len(y)), y] for prediction in calibrated(x)]


@pytest.mark.parametrize("count", [1, 7])
def test_the_graphs_of_a_bundle_give_the_predictions_of_the_quantized_network(count, conv_bundle, text_bundle_int8):
    for exported, x in ((conv_bundle, images(count, seed=4)), (text_bundle_int8, models.texts(count, 7, seed=4))):
        allowed = bundles.tolerance(exported.calibrated, x)
        for got, prediction in zip(exported.passes(x), exported.calibrated(x), strict=True):
            for name, values in bundles.fields(got).items():
                expected = getattr(prediction, name)
                atol = bundles.field_tolerance(name, expected, allowed)
                torch.testing.assert_close(values, expected, atol=atol, rtol=0)


def test_a_runner_gives_the_answers_of_run(conv_bundle):
    runtime = pytest.importorskip("suffice_runtime")
    x = images(60, seed=5)
    got = runtime.Runner(conv_bundle.folder).run(x.numpy())
    answer = suffice.run(conv_bundle.calibrated, conv_bundle.policy, x)
    clear = ((answer.scores - conv_bundle.policy.thresholds).abs() > 1e-4).all(dim=1)
    assert clear.sum() >= 50
    assert len(answer.exit.unique()) == 2
    assert (got.exit == answer.exit.numpy())[clear].all()
    np.testing.assert_allclose(got.probs[clear], answer.probs.numpy()[clear], atol=1e-5)


def test_an_answer_does_not_depend_on_the_others_in_its_batch(conv, text):
    for case, x, others in (
        (conv, images(1, seed=6), 50 * images(5, seed=7)),
        (text, models.texts(1, seed=6), models.texts(5, seed=7)),
    ):
        together = torch.cat([x, others]) if case is conv else {name: torch.cat([x[name], others[name]]) for name in x}
        allowed = bundles.tolerance(case.calibrated, together)
        for alone, among in zip(case.quantized(x), case.quantized(together), strict=True):
            torch.testing.assert_close(alone.log_probs, among.log_probs[:1], atol=allowed, rtol=0)


def test_stages_and_features_are_quantized_and_classifiers_are_not(conv_bundle, text_bundle_int8):
    import onnx
    from onnx import numpy_helper

    for exported in (conv_bundle, text_bundle_int8):
        for k in range(2):
            graph = onnx.load(exported.folder / f"stage-{k}.onnx").graph
            assert any(node.op_type == "QuantizeLinear" for node in graph.node)
            constants = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
            weight = exported.calibrated.network.exit(k).classifier.weight.detach().numpy()
            assert sum(np.array_equal(value, weight) for value in constants.values()) == 1
            large = [name for name, value in constants.items() if value.dtype == np.float32 and value.ndim > 1]
            assert all(name.startswith("head.") or "embedding" in name for name in large), large


def test_a_refit_repairs_wrong_temperatures(conv):
    before = conv.quantized.with_temperature([exit_.temperature for exit_ in conv.calibrated.exits])
    assert objective(conv, conv.quantized, conv.quantized.exits) < objective(conv, before, before.exits)
    fitted, wrong = (sum(loss.mean() for loss in losses(each, conv.loader)) for each in (conv.quantized, before))
    assert fitted < wrong
    assert [exit_.prior_precision for exit_ in conv.quantized.exits] == [
        exit_.prior_precision for exit_ in conv.calibrated.exits
    ]


def test_prior_precisions_are_fitted_where_that_is_chosen(conv):
    refitted, values = quantize._refitted(conv.quantized, conv.loader, True)
    assert {value.name for value in values} == {"temperature", "prior precision"}
    found, before = (objective(conv, each, each.exits) for each in (refitted, conv.quantized))
    assert found <= before
    assert [exit_.prior_precision for exit_ in refitted.exits] != [
        exit_.prior_precision for exit_ in conv.quantized.exits
    ]
    assert refitted.digest != conv.quantized.digest


def test_without_a_refit_the_exits_are_those_in_float32(text):
    for mine, theirs in zip(text.quantized.exits, text.calibrated.exits, strict=True):
        assert mine.parts()[0] == theirs.parts()[0]


def test_a_policy_in_float32_is_for_another_network(conv, tmp_path):
    policy = suffice.allocate(conv.calibrated, conv.inputs, 0.8)
    with pytest.raises(ValueError, match="a policy for this calibrated network"):
        suffice.export(conv.quantized, tmp_path / "bundle", policy=policy, example=images(2))
    with pytest.raises(ValueError, match="a policy for this calibrated network"):
        suffice.run(conv.quantized, policy, images(2))
    assert not (tmp_path / "bundle").exists()


def test_policies_and_costs_are_made_for_the_quantized_network(conv):
    policy = suffice.control_risk(conv.quantized, conv.loader, max_loss=0.2)
    policy = suffice.conformalize(conv.quantized, policy, conv.loader, by_exit=False)
    assert policy.made_for == conv.quantized.digest != conv.calibrated.digest
    assert conv.quantized.costs == conv.calibrated.costs
    assert suffice.run(conv.quantized, policy, images(5)).exit.shape == (5,)


def test_the_manifest_and_the_card_state_the_quantization(conv_bundle, text_bundle_int8):
    entries = {"method": "static", "weights": "int8", "weight_bits": 7, "per_channel": True, "activations": "uint8"}
    expected = {**entries, "least_snr_db": 25.0, "opset": 20, "examples": 200, "refit": True, "refit_posterior": False}
    assert conv_bundle.manifest["quantization"] == expected
    assert text_bundle_int8.manifest["quantization"] == {**expected, "examples": 80, "refit": False}
    assert conv_bundle.manifest["hashes"]["calibrated"] == conv_bundle.calibrated.digest
    assert "onnxruntime" in conv_bundle.manifest["versions"]
    shown = (conv_bundle.folder / "model_card.md").read_text(encoding="utf-8")
    assert "8-bit integers, with scales from 200 examples" in shown
    assert "The temperatures were fitted to the quantized network." in shown
    assert "The temperatures are those of the network in float32." in card.text(text_bundle_int8.manifest)


def test_a_copy_gives_the_same_predictions(conv):
    x = images(5)
    wanted = conv.quantized(x)
    for prediction, expected in zip(copy.deepcopy(conv.quantized)(x), wanted, strict=True):
        assert torch.equal(prediction.log_probs, expected.log_probs)
    assert repr(conv.quantized).startswith("Quantized(classification, 4 outputs")


def test_changes_that_need_features_in_float32_are_refused(conv, tmp_path):
    with pytest.raises(TypeError, match="a network in float32 to update"):
        conv.quantized.update(conv.inputs)
    with pytest.raises(TypeError, match="a network in float32 to widen"):
        conv.quantized.with_classes(conv.calibrated.network)
    with pytest.raises(TypeError, match="got Quantized"):
        suffice.save(conv.quantized, tmp_path / "saved")
    with pytest.raises(TypeError, match="one that is quantized"):
        suffice.quantize(conv.quantized, conv.inputs)


def test_an_export_of_other_inputs_or_operators_is_refused(conv, tmp_path):
    with pytest.raises(ValueError, match=r"'input' float32 \(N, 1, 8, 8\), as the network was quantized for, got"):
        suffice.export(conv.quantized, tmp_path / "bundle", example=torch.randn(2, 1, 10, 10))
    with pytest.raises(ValueError, match="opset 20, with which the network was quantized, got 18"):
        suffice.export(conv.quantized, tmp_path / "bundle", example=images(2), opset=18)
    with pytest.raises(ValueError, match=r"format='onnx' for a quantized network, .* got 'torch'; omit it, or export"):
        suffice.export(conv.quantized, tmp_path / "bundle", example=images(2), format="torch")
    assert not (tmp_path / "bundle").exists()


REFUSED = {
    "no batches": ([], ValueError, "at least one example"),
    "a tensor": (images(3), TypeError, "batches"),
    "inputs that are not finite": ([images(3), images(3) * torch.nan], ValueError, "finite inputs.* at position 3"),
    "inputs of another shape": (
        [images(3), images(3)[..., :6]],
        ValueError,
        r"got torch.float32 of shape \(3, 1, 8, 6\)",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_batches_that_do_not_fit_are_refused(case, conv):
    loader, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        suffice.quantize(conv.calibrated, loader)


ARGUMENTS = {
    "a network that is not calibrated": ({"calibrated": builders.network()}, TypeError, "a calibrated network"),
    "an opset that is too old": ({"opset": 17}, ValueError, "an opset from 18 to 23"),
    "a flag of another type": ({"refit_posterior": "yes"}, TypeError, "refit_posterior=True or"),
    "prior precisions without data": ({"refit_posterior": True}, ValueError, "labeled batches as refit="),
    "data that are no loader": ({"refit": images(3)}, TypeError, "batches"),
}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_an_argument_that_does_not_fit_is_refused(case, conv):
    options, error, message = ARGUMENTS[case]
    options = {"calibrated": conv.calibrated, "loader": conv.inputs, **options}
    with pytest.raises(error, match=message):
        suffice.quantize(**options)


def test_prior_precisions_of_exits_without_a_posterior_are_refused():
    calibrated = builders.untuned(builders.network(), builders.inputs(30), structure=None)
    with pytest.raises(ValueError, match="whose predictions use its posterior for refit_posterior=True, got none"):
        suffice.quantize(calibrated, [builders.inputs(30)], refit=[builders.inputs(30)], refit_posterior=True)


def test_weights_that_have_changed_are_refused():
    network, x = builders.network(), builders.inputs(30)
    calibrated = builders.untuned(network, x)
    with torch.no_grad():
        network.exit(0).classifier.weight.mul_(2)
    with pytest.raises(ValueError, match="weights"):
        suffice.quantize(calibrated, [x])


def test_a_missing_onnxruntime_is_named(conv, monkeypatch):
    find = checks.find_spec
    monkeypatch.setattr(checks, "find_spec", lambda name: None if name == "onnxruntime" else find(name))
    with pytest.raises(ImportError, match=r"expected onnxruntime to export.*pip install 'suffice\[export\]'"):
        suffice.quantize(conv.calibrated, conv.inputs)


def test_a_stage_with_nothing_to_quantize_is_refused():
    network = ExitNetwork([nn.Tanh()], [Exit(nn.Identity(), nn.Linear(3, 4))]).eval()
    x = builders.inputs(30)
    with pytest.raises(ValueError, match="a linear layer in stage 0 or the features of its exit, got none"):
        suffice.quantize(builders.untuned(network, x, structure=None), [x])


def test_plain_values_that_differ_from_those_of_the_calibration_are_refused(text):
    with pytest.raises(ValueError, match="the keys and plain values that the network was quantized for, got others"):
        text.quantized.backbones[0].feed({"input_ids": models.texts(2)["input_ids"]})


def with_outlier(place):
    """Return a network with one activation of 3,000 beside others of about 1, where nothing behind it reads it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first, second, third = nn.Linear(16, 64), nn.Linear(64, 64), nn.Linear(64, 32)
        exit_ = suffice.Exit(nn.Identity(), nn.Linear(32, 4))
        nn.init.normal_(exit_.classifier.weight)
    with torch.no_grad():
        if place == "layer":
            second.bias[0], third.weight[:, 0] = 3000.0, 0.0
        elif place == "features":
            third.bias[0], exit_.classifier.weight[:, 0] = 3000.0, 0.0
    stage = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third)
    network = suffice.ExitNetwork([stage], [exit_]).eval()
    x = torch.randn(400, 16, generator=torch.Generator().manual_seed(1))
    labels = network(x)[-1].argmax(dim=1)
    return suffice.calibrate(network, None, [(x, labels)], structure=None, temperature=False), x


@pytest.mark.filterwarnings("ignore:.* ended at the edge of its range")
@pytest.mark.parametrize("place", ["layer", "features"])
def test_predictions_that_rounding_spoils_are_warned_of(place):
    calibrated, x = with_outlier(place)
    with pytest.warns(UserWarning, match="predictions in 8 bits close to those in float32, got a mean distance"):
        suffice.quantize(calibrated, [x[:200], x[200:]])


@pytest.mark.filterwarnings("ignore:.* ended at the edge of its range")
def test_a_layer_that_one_example_makes_large_is_left_out_with_what_it_reads():
    calibrated, x = with_outlier("nowhere")
    layers = calibrated.network.stages[0]
    with torch.no_grad():
        layers[0].weight[0], layers[0].bias[0], layers[0].weight[1:, 0], layers[0].weight[0, 0] = 0.0, 0.0, 0.0, 1.0
        layers[2].weight[0], layers[2].bias[0], layers[2].weight[0, 0], layers[4].weight[:, 0] = 0.0, 0.0, 3000.0, 0.0
    x[:, 0], x[0, 0] = 0.0, 1.0
    labels = calibrated.network(x)[-1].argmax(dim=1)
    calibrated = suffice.calibrate(calibrated.network, None, [(x, labels)], structure=None, temperature=False)
    quantized = suffice.quantize(calibrated, [x])
    agree = quantized(x)[-1].label == calibrated(x)[-1].label
    assert agree.double().mean() > 0.9
